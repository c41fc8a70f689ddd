"""The wheel: what is in it, and the quickstart from where the checkout is not."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from conftest import REPOSITORY

UV = [str(Path(sys.executable).with_name("uv"))]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--quiet", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", str(folder)]
    subprocess.run([*UV, "build", *options], cwd=REPOSITORY, check=True, capture_output=True)
    [built] = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_code_configuration_and_data(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    for folder, within in (("src", ""), ("conf", "bioquant/conf/")):
        tracked = subprocess.run(
            ["git", "ls-files", folder], cwd=REPOSITORY, check=True, capture_output=True, text=True
        ).stdout.split()
        assert tracked
        assert {within + name.partition("/")[2] for name in tracked} <= inside
    assert not {name for name in inside if name.startswith(("tests/", "docs/", "benchmarks/"))}


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command `bioquant` of an environment with the wheel and, lent by this one, what it depends on.

    The lent folder's own .pth files are not read there, so the checkout is out of sight.
    """
    folder = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    subprocess.run([*UV, "pip", "install", "--quiet", "--no-deps", "--python", python, wheel], check=True)
    [site] = folder.glob("lib/python*/site-packages")
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return folder / "bin" / "bioquant"


@pytest.mark.slow
def test_the_quickstart_runs_from_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("BIOQUANT_", "PYTHON"))}
    python = installed.with_name("python")
    where = [
        python,
        "-c",
        "import bioquant, hydra_plugins.bioquant_launcher as p; print(bioquant.__file__, p.__file__)",
    ]
    found = subprocess.run(where, cwd=tmp_path, env=env, check=True, capture_output=True, text=True).stdout
    assert str(REPOSITORY) not in found
    quick = ["model=tiny_random", "quant=none", "limit=1", "measure.latency_examples=0"]
    command = [installed, "run", "experiment=quickstart", *quick, "--json"]
    result = subprocess.run(command, cwd=tmp_path, env=env, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    cells = json.loads(result.stdout)
    assert [cell["task"] for cell in cells] == ["demo_qa", "demo_ner", "demo_re", "demo_mlc"]
    assert (tmp_path / "mlruns" / "mlflow.db").exists()
