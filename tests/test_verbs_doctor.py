"""What `bioquant doctor` finds, and what it says to do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bitsandbytes import functional

from bioquant import hardware
from bioquant.hardware import Gpu
from bioquant.models.native import bitsandbytes_problem
from bioquant.verbs import doctor


def test_a_gpu_that_torch_does_not_use_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(hardware, "visible_gpus", lambda: [Gpu("0")])
    _, state, found, advice = doctor.cuda()
    assert state == "missing"
    assert found.startswith("the driver shows a GPU, torch 2.")
    assert advice.startswith("uv pip install --torch-backend auto --reinstall torch")


def test_no_gpu_is_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(hardware, "visible_gpus", list)
    assert doctor.cuda()[1] == "absent"


def test_bitsandbytes_works_here() -> None:
    assert bitsandbytes_problem("cpu") is None


def test_nothing_is_said_of_kernels_from_the_hub() -> None:
    program = "from bioquant import network; from bioquant.verbs import doctor; network.start(); doctor.bitsandbytes()"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stderr == ""


def test_a_broken_native_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("libbitsandbytes_cpu.so:\ncannot open shared object file")

    monkeypatch.setattr(functional, "quantize_4bit", broken)
    _, state, found, advice = doctor.bitsandbytes()
    assert state == "missing"
    assert found.endswith("does not work: libbitsandbytes_cpu.so: cannot open shared object file")
    assert advice == "pip install --force-reinstall bitsandbytes"


def test_kernels_that_compute_nonsense_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functional, "dequantize_4bit", lambda *_: torch.zeros(4096))
    assert bitsandbytes_problem("cpu") == "nf4 and back changes a weight of 1.0 by up to 1.00"


def test_a_disk_that_is_full_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BIOQUANT_CACHE", str(tmp_path / "not" / "there" / "yet"))
    assert doctor.cache()[1] == "ok"
    monkeypatch.setattr(doctor, "FREE_GIB", 1e9)
    assert doctor.cache()[3] == "free 1000000000 GiB there, or set BIOQUANT_CACHE to another disk"


def test_a_folder_that_cannot_be_written_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BIOQUANT_ROOT", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda *_: False)
    found = ["project", "missing", f"{tmp_path} cannot be written to", "set BIOQUANT_ROOT to a folder of yours"]
    assert doctor.project() == found
