"""The table of every dataset: what docs/datasets.md shows is what the command prints, and no figure differs."""

import gzip
import subprocess
import sys
from pathlib import Path

import pytest

from bioquant import compose
from conftest import REPOSITORY

COMMAND = [sys.executable, str(REPOSITORY / "benchmarks" / "dataset_table.py")]


@pytest.mark.slow
def test_the_page_is_what_the_command_prints(data_root: Path) -> None:
    done = subprocess.run([*COMMAND, str(data_root)], capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    page = (REPOSITORY / "docs" / "datasets.md").read_text(encoding="utf-8")
    assert page[page.index("## ") :] == done.stdout
    tasks = [name for name in compose.names("task") if not name.startswith("demo_")]
    for heading in ("Sizes and trivial baselines", "Scores beside seqeval's and scikit-learn's", "Published figures"):
        table = done.stdout.partition(f"## {heading}\n")[2].partition("\n## ")[0]
        assert [name for name in tasks if f"\n| {name} |" not in table] == []


def test_a_figure_that_differs_is_said_so(data_root: Path, tmp_path: Path) -> None:
    """PubMedQA with one answer changed."""
    folder = tmp_path / "pubmedqa" / "original"
    folder.mkdir(parents=True)
    for name in ("ori_pqal.json", "test_ground_truth.json"):
        text = gzip.decompress((data_root / "pubmedqa" / "original" / f"{name}.gz").read_bytes()).decode()
        changed = text.replace('"final_decision": "maybe"', '"final_decision": "yes"', 1)
        (folder / name).write_text(changed, encoding="utf-8")
    done = subprocess.run([*COMMAND, str(tmp_path)], capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 1, done.stderr
    assert "| pubmedqa | gold in test and pool: yes | 552 | 553 | differs |" in done.stdout
    assert "Not found in the folder: bc2gm, " in done.stdout


def test_without_a_folder_it_says_what_to_name() -> None:
    env = {"PATH": ""}
    done = subprocess.run(COMMAND, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 2
    assert done.stderr == "name the folder of benchmark files, or set BIOQUANT_DATA\n"
