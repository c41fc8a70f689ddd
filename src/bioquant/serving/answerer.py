"""A recipe, loaded: rows in, predictions out."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Self, cast

from bioquant import answering, datasets, loading, places, prompts, quantization, recipe
from bioquant.engine import LanguageModel
from bioquant.errors import RegistryError, RequestError
from bioquant.prompts import Chooser
from bioquant.recipe import Recipe
from bioquant.records import Example, Prediction, Row
from bioquant.serving.requests import TooLargeError

log = logging.getLogger(__name__)

RECIPE = "recipe.json"
WEIGHTS = "weights"
STORED = "weights.json"
"""What a version's folder holds. The weights only where they were stored: then STORED has the bytes of each file."""


class Answerer:
    """Answers rows as the evaluation did, by the same stages. One call at a time; others wait."""

    def __init__(self, made: Recipe, model: LanguageModel, choose: Chooser) -> None:
        self.recipe = made
        self._model = model
        self._choose = choose
        self._alone = Lock()

    @classmethod
    def load(cls, folder: Path) -> Self:
        """From a version's folder. Raises RegistryError, DataError where a kNN pool is missing, and as `loading.load`.

        Where the weights were stored, the model's own checkpoint is not looked for, even if they are gone.
        """
        made = recipe.read(folder / RECIPE)
        _warn_of_changes(made)
        choose = chooser(made)
        if (folder / STORED).exists():
            check_weights(folder)
            stored = recipe.with_weights(made, folder / WEIGHTS).config
            return cls(made, loading.with_transformers(stored, quantized=True).model, choose)
        return cls(made, loading.load(made.config).model, choose)

    def answer(self, rows: Sequence[Row]) -> list[Prediction | RequestError]:
        """Each row's prediction, in order; an error in place of one that does not fit the model's context.

        The same rows in one call give the same answers, to the letter those of an evaluation that asked them. With
        others beside it a row may be rounded differently, as in any engine; under LLM.int8() more so, since what counts
        as an outlier is decided over a batch. Sampled answers depend on a row's place too.
        """
        with self._alone:
            shown = [self._fitting(example) for example in self._written(rows)]
            asked = [place for place, example in enumerate(shown) if isinstance(example, Example)]
            examples = [example for example in shown if isinstance(example, Example)]
            found: dict[int, Prediction | RequestError] = {
                place: error for place, error in enumerate(shown) if isinstance(error, RequestError)
            }
            for index, prediction in answering.ask(self.recipe.config, examples, self._model) if examples else ():
                found[asked[index]] = prediction
        return [found[place] for place in range(len(rows))]

    def _written(self, rows: Sequence[Row]) -> list[Example]:
        made = self.recipe
        return prompts.written(rows, self._choose(rows), made.task, made.prompt, system_prompt=made.model.system_prompt)

    def _fitting(self, example: Example) -> Example | TooLargeError:
        config = self.recipe.config
        found = answering.fitting(config, example, self._model)
        return found or TooLargeError(
            f"row {example.id}: its prompt has {len(self._model.encode(example.messages)):,} tokens, which cannot be "
            f"shortened to the {answering.room(config):,} that the model's context has room for."
        )


def check_weights(folder: Path) -> None:
    """Raises RegistryError where a file of the stored weights is absent, or cut short."""
    sizes = cast(dict[str, int], json.loads((folder / STORED).read_text(encoding="utf-8")))
    for name, size in sizes.items():
        path = folder / WEIGHTS / name
        found = path.stat().st_size if path.exists() else None
        if found != size:
            what = "is not there" if found is None else f"has {found:,} bytes, not {size:,}"
            raise RegistryError(f"the version's stored weights are not whole: {path} {what}. Register it again.")


def chooser(made: Recipe) -> Chooser:
    """The recipe's own few-shot examples, or the choice from its pool. Raises RegistryError where that has changed."""
    if made.dataset_sha256 is None:
        return prompts.always(made.shots)
    dataset = datasets.load(made.task, places.data_root(None))
    if dataset.digest != made.dataset_sha256:
        raise RegistryError(
            f"prompt '{made.prompt.name}' takes its examples from the pool of task '{made.task.name}', whose files "
            f"here (digest {dataset.digest[:12]}) are not those that were evaluated ({made.dataset_sha256[:12]}): "
            "point BIOQUANT_DATA to those."
        )
    return prompts.chooser(prompts.clean_pool(dataset.test, dataset.pool), made.task, made.prompt, made.seed)


def _warn_of_changes(made: Recipe) -> None:
    ours = [name for name in ("torch", "transformers", quantization.library(made.quant)) if name]
    if changed := recipe.changed_libraries(made, ours):
        log.warning("evaluated with %s: answers may differ", "; ".join(changed))
