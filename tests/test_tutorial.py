"""The tutorial leads from nothing to an answer; the notebooks run from a clean kernel on what it left.

One file, since the tutorial is followed once for all of it.
"""

import ast
import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from conftest import REPOSITORY
from docs_parts import follow

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
PICTURES = {"01_explore_runs": 2, "02_quantization_tradeoffs": 3, "03_error_analysis": 1}
LONGEST_CELL = 16
"""Lines: what is longer is logic, and belongs to the package."""


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder in which the tutorial was followed from its first command to its last, and what each printed."""
    root = tmp_path_factory.mktemp("tutorial")
    return root, follow(REPOSITORY / "docs" / "tutorial.md", root)


@pytest.mark.slow
def test_the_tutorial_leads_from_a_sweep_to_an_answer(tutorial: tuple[Path, list[str]]) -> None:
    root, outputs = tutorial
    assert (root / "mlruns" / "mlflow.db").exists()
    assert any("12 cells: 12 to run" in output for output in outputs)
    assert re.search(r'"option": ?"(yes|no)"|"invalid": ?true', outputs[-1]), outputs[-1]


def test_the_notebooks_are_the_expected_ones() -> None:
    assert [path.stem for path in NOTEBOOKS] == list(PICTURES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs_and_defines_nothing(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert code
    for cell in code:
        assert (cell["outputs"], cell["execution_count"]) == ([], None)
        assert len(cell["source"]) <= LONGEST_CELL
        definitions = (ast.FunctionDef, ast.ClassDef)
        assert not any(isinstance(node, definitions) for node in ast.walk(ast.parse("".join(cell["source"]))))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
# jupyter_client and ipykernel about themselves.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_notebook_runs_from_a_clean_kernel(
    path: Path, tutorial: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _ = tutorial
    monkeypatch.setenv("BIOQUANT_ROOT", str(root))
    monkeypatch.setenv("IPYTHONDIR", str(root / "ipython"))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(root)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == PICTURES[path.stem]
    tables = [output for output in outputs if "text/html" in output.get("data", {})]
    assert tables
