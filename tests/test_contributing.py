"""CONTRIBUTING.md's recipes, done word for word in a copy of the project; and the targets of the Makefile."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import REPOSITORY

TEXT = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")

RECIPES = {
    heading: body.strip()
    for heading, body in re.findall(r"^## (Add a .*?)\n(.*?)(?=^## |\Z)", TEXT, flags=re.MULTILINE | re.DOTALL)
}

LEFT_BEHIND = {
    "Add a model": "conf/model/my_model.yaml",
    "Add a task": "conf/task/my_task.yaml",
    "Add a quantization recipe": "conf/quant/my_recipe.yaml",
}


def test_there_are_the_three_recipes() -> None:
    assert RECIPES.keys() == LEFT_BEHIND.keys()


@pytest.mark.parametrize("heading", LEFT_BEHIND)
def test_a_recipe_has_ten_lines_at_most(heading: str) -> None:
    assert len([line for line in RECIPES[heading].splitlines() if line]) <= 10


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout's code and configuration, and the command `bioquant` that runs them."""
    root = tmp_path_factory.mktemp("copy")
    for folder in ("conf", "src"):
        shutil.copytree(REPOSITORY / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "multirun").mkdir()
    (root / "bin").mkdir()
    command = root / "bin" / "bioquant"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bioquant "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("heading", LEFT_BEHIND)
def test_a_recipe_does_what_it_says(copy: Path, heading: str) -> None:
    [commands] = re.findall(r"```bash\n(.*?)```", RECIPES[heading], flags=re.DOTALL)
    made = copy / LEFT_BEHIND[heading]
    assert not made.exists()
    path = f"{copy / 'bin'}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(copy / "src"), "BIOQUANT_ROOT": str(copy)}
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands], cwd=copy, env=env, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert made.exists()
    assert made.stem in result.stdout


def test_make_help_lists_every_target() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    [targets] = re.findall(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
    # Under `make test` make would tell which folder it enters.
    command = ["make", "--no-print-directory", "help"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in result.stdout.splitlines()] == targets.split()
