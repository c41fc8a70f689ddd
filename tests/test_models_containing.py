"""What a library does to the process while a model is loaded is undone, and it holds on to nothing of ours."""

import gc
import sys
import weakref
from collections.abc import Generator
from importlib import import_module
from pathlib import Path

import pytest

from bioquant.models.containing import contained

KEEPS_AN_ERROR = """
try:
    import no_such_module_anywhere
except ImportError as error:
    ERROR = error
"""


class Model:
    """Stands in for what was loaded."""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[str]:
    """A package that is like gptqmodel in one thing."""
    (tmp_path / "keeper").mkdir()
    (tmp_path / "keeper" / "__init__.py").touch()
    (tmp_path / "keeper" / "kernels.py").write_text(KEEPS_AN_ERROR)
    monkeypatch.syspath_prepend(tmp_path)
    yield "keeper"
    for name in ("keeper", "keeper.kernels"):
        sys.modules.pop(name, None)


def loaded(library: str, watched: str) -> weakref.ref[Model]:
    """A model that nobody holds any more, loaded by the frame in which the library was imported."""
    model = Model()
    with contained(watched):
        import_module(f"{library}.kernels")
    return weakref.ref(model)


def test_an_error_that_the_library_keeps_does_not_keep_the_model(library: str) -> None:
    found = loaded(library, library)
    gc.collect()
    assert found() is None
    kept = sys.modules["keeper.kernels"].ERROR
    assert str(kept) == "No module named 'no_such_module_anywhere'"


def test_of_another_library_nothing_is_touched(library: str) -> None:
    found = loaded(library, "another")
    gc.collect()
    assert found() is not None
