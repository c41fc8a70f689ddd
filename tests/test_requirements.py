"""The locks: what users install is what was tested, for a CPU as for a GPU."""

import re
import tomllib

import pytest

from conftest import REPOSITORY

CUDA_ONLY = re.compile(r"(?!nvidia-ml-py)(nvidia-|cuda-|triton$)")


def pins(name: str) -> dict[str, str]:
    """The versions that a file pins, by distribution."""
    text = (REPOSITORY / "requirements" / name).read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w.-]+)(?:\[[\w,]+\])?==([^\s;\\]+)", text, flags=re.MULTILINE))


TESTED, CPU, CUDA = pins("constraints.txt"), pins("cpu.txt"), pins("cuda.txt")


def test_the_locks_differ_by_the_libraries_of_cuda_alone() -> None:
    assert {name: version for name, version in CUDA.items() if not CUDA_ONLY.match(name)} == CPU
    assert CUDA.keys() - CPU.keys() > {"nvidia-cublas", "triton"}


def test_what_is_locked_is_what_was_tested() -> None:
    installers = {"pip"}  # an environment brings its own
    assert {name: version for name, version in CPU.items() if TESTED.get(name) != version}.keys() <= installers


@pytest.mark.parametrize("lock", [CPU, CUDA], ids=["cpu", "cuda"])
def test_every_dependency_is_locked(lock: dict[str, str]) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {re.split(r"[\[<>=]", requirement)[0] for requirement in project["dependencies"]}
    assert wanted - lock.keys() == set()


def test_a_lock_names_no_place_and_every_line_of_the_gpus_has_a_hash() -> None:
    for name in ("cpu.txt", "cuda.txt"):
        text = (REPOSITORY / "requirements" / name).read_text(encoding="utf-8")
        assert not re.findall(r"://|--find-links|--index|^/|\s/", text, flags=re.MULTILINE)
    text = (REPOSITORY / "requirements" / "cuda.txt").read_text(encoding="utf-8")
    assert not re.findall(r"==\S+\n(?!    --hash)", text)
