"""Splits from the Hugging Face Hub, or from a local folder in one of its layouts, through the `datasets` library."""

from collections.abc import Iterator
from typing import Any, cast

from bioquant.config import HubConfig, TaskConfig
from bioquant.errors import DataError
from bioquant.privacy import told
from bioquant.records import Record, Value


def read(hub: HubConfig, split: str, task: TaskConfig) -> Iterator[Record]:
    """A record a row, class labels by name.

    Raises DataError for a dataset, configuration or split that cannot be had, with the library's own reason.
    """
    import datasets  # seconds to import, and only needed where the files are not there
    from datasets.exceptions import DatasetsError

    try:
        rows = datasets.load_dataset(hub.id, name=hub.config, revision=hub.revision, split=split)
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        reason = " ".join(told(error).split())
        raise DataError(
            f"task '{task.name}': split '{split}' of the dataset {hub.id} cannot be loaded ({reason}); check the"
            f" network and task.hub, or get the files ({task.get}) and set data.root=FOLDER or the variable"
            " BIOQUANT_DATA"
        ) from error
    for number, row in enumerate(cast(Any, rows)):
        named = {column: _named(value, rows.features[column]) for column, value in row.items()}
        yield Record(fields=named, source=f"{hub.id}/{split}:{number}")


def _named(value: Any, feature: Any) -> Value:
    """The value, with a class label's number replaced by its name."""
    inner = getattr(feature, "feature", None)
    if isinstance(value, list) and hasattr(inner, "int2str"):
        return [_named(item, inner) for item in value]
    if isinstance(value, int) and value >= 0 and hasattr(feature, "int2str"):
        return cast(str, feature.int2str(value))
    return cast(Value, value)
