"""What a cell leaves in its folder beside its predictions: its configuration, its figures, its log."""

import json
import logging
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import OmegaConf

from bioquant import privacy
from bioquant.config import RunConfig
from bioquant.errors import DiskFullError, is_disk_full
from bioquant.shown import masked


def write_config(config: RunConfig, folder: Path) -> None:
    """The whole composed configuration, as it is logged: without passwords."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(masked(OmegaConf.to_yaml(OmegaConf.structured(config))), encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """One readable JSON file, there as a whole or not at all."""
    copy = path.with_suffix(".copy")
    copy.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    copy.replace(path)


@contextmanager
def logged(folder: Path) -> Generator[None]:
    """Send log lines, and the traceback of whatever fails, to `run.log` in the cell's folder. Raises DiskFullError."""
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(folder / "run.log", encoding="utf-8")
    handler.setFormatter(privacy.Lines("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    except BaseException as error:
        logging.getLogger("bioquant").exception("the cell failed")
        if is_disk_full(error):
            raise DiskFullError.at(getattr(error, "filename", None) or folder) from error
        raise
    finally:
        root.removeHandler(handler)
        handler.close()
