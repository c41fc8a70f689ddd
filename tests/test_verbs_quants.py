import json
from dataclasses import replace

import pytest

from bioquant import compose, quantization
from bioquant.config import Device, QuantConfig, RequiresConfig
from bioquant.hardware import Gpu
from bioquant.verbs import quants
from conftest import REPOSITORY

QUANTS: dict[str, QuantConfig] = compose.options("quant", QuantConfig)


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bioquant.hardware.visible_gpus", list[Gpu])


def test_every_recipe_has_a_line_no_wider_than_80_columns(capsys: pytest.CaptureFixture[str]):
    quants.main([])
    lines = capsys.readouterr().out.splitlines()
    table = lines[1 : next(place for place, line in enumerate(lines) if line.startswith("own: "))]
    assert {line.split()[0] for line in table if not line.startswith(" ")} == QUANTS.keys()
    assert lines[1].split() == ["none", "own", "-", "-", "cpu", "cuda", "no", "yes", "cpu"]
    assert max(len(line) for line in lines) <= 80
    assert "left alone: embeddings, norms, lm_head" in lines


def test_json_says_all_that_is_known(capsys: pytest.CaptureFixture[str]):
    quants.main(["--json"])
    found = {one["quant"]: one for one in json.loads(capsys.readouterr().out)}
    assert found["none"]["bits_per_weight"] is None
    assert found["bnb_nf4_dq"] == {
        "quant": "bnb_nf4_dq",
        "method": "bnb_4bit",
        "weight_format": "nf4",
        "bits_per_weight": pytest.approx(4.127, abs=0.001),
        "devices": ["cpu", "cuda"],
        "compute_capability": None,
        "calibrated": False,
        "unpacked": False,
        "library": "bitsandbytes",
        "keeps": ["lm_head"],
        "unsavable": None,
        "vllm": True,
        "here": ["cpu"],
        "missing": None,
    }
    assert found["quanto_int4"]["unsavable"] == quantization.unsavable(QUANTS["quanto_int4"])


def test_a_recipe_for_newer_gpus_says_what_is_in_its_way():
    needs = RequiresConfig(devices=[Device.cuda], compute_capability=8.9, calibrated=True)
    quant = replace(QUANTS["bnb_nf4"], requires=needs)
    nowhere = quants.standing(quant, [])
    assert (nowhere.here, nowhere.missing) == (
        [],
        "quant 'bnb_nf4' does not run on cpu (quant.requires.devices: cuda)",
    )
    assert quants.line(nowhere)[1:5] == ["nf4*", "4.50", "bitsandbytes", "cuda 8.9"]
    assert quants.line(nowhere)[-1] == "no"
    ampere, hopper = Gpu("0", capability=8.0, memory_gib=40), Gpu("1", capability=9.0, memory_gib=80)
    too_old = quants.standing(quant, [ampere])
    assert too_old.here == []
    assert too_old.missing is not None
    assert "8.9" in too_old.missing
    runs = quants.standing(quant, [hopper])
    assert (runs.here, runs.missing) == (["cuda"], None)  # that it is none for a CPU is no lack of this machine
    assert quants.standing(QUANTS["bnb_nf4"], [ampere]).here == ["cpu", "cuda"]


def test_a_missing_library_is_told_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(quantization.MODULES, "bitsandbytes", "bioquant.no_such_module")
    quants.main([])
    out = capsys.readouterr().out
    said = " ".join(out.split())
    assert "quant 'bnb_int8' needs bitsandbytes, which is not installed: pip install bitsandbytes" in said
    assert next(line for line in out.splitlines() if line.startswith("bnb_int8")).split()[-1] == "no"


def test_the_page_lists_every_recipe_with_its_bits():
    page = (REPOSITORY / "docs" / "quants.md").read_text(encoding="utf-8")
    table = page.partition("## ")[0]
    lines = {line.split("`")[1]: line for line in table.splitlines() if line.startswith("| `")}
    assert lines.keys() == QUANTS.keys()
    for name, line in lines.items():
        _, _, bits, *_ = quants.line(quants.standing(QUANTS[name], []))
        assert name == "none" or f" {bits} |" in line
