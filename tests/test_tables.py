"""What a sweep prints."""

import json

import pytest

from bioquant import tables

CELL = {
    "model": "smollm2_135m",
    "dtype": "float32",
    "prompt": "zero_shot",
    "task": "demo_qa",
    "quant": "none",
    "setting": "",
    "metric": "accuracy",
    "quality": 0.5,
    "ci_low": 0.25,
    "ci_high": 0.75,
    "num_examples": 20,
    "invalid_rate": 0.1,
    "weights_mib": 513.12,
    "peak_mib": None,
    "trivial": 0.41,
    "num_timed": 20.0,
    "latency_ms_p50": 250.4,
    "examples_per_s": 4.27,
    "error": "",
}


def test_the_baseline_stands_beside_its_candidates(capsys: pytest.CaptureFixture[str]) -> None:
    other = CELL | {"task": "demo_re", "metric": "macro_f1"}
    tables.show_cells([CELL, other, CELL | {"quant": "bnb_nf4", "quality": 0.45}], as_json=False)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "smollm2_135m (float32) · zero_shot · 20 examples a cell"
    assert [line.split() for line in lines[3:9]] == [
        ["demo_qa", "none", "0.500", "[0.250,", "0.750]", "0.10", "513", "-", "250", "4.3"],
        ["accuracy", "bnb_nf4", "0.450", "[0.250,", "0.750]", "0.10", "513", "-", "250", "4.3"],
        ["trivial", "0.410"],
        ["demo_re", "none", "0.500", "[0.250,", "0.750]", "0.10", "513", "-", "250", "4.3"],
        ["macro_f1"],
        ["trivial", "0.410"],
    ]


def test_what_tells_cells_of_one_name_apart_stands_below_it(capsys: pytest.CaptureFixture[str]) -> None:
    tables.show_cells([CELL | {"setting": f"seed={seed} · engine.batch=1"} for seed in (0, 1)], as_json=False)
    lines = [line[16:32].rstrip() for line in capsys.readouterr().out.splitlines()[3:9]]
    assert lines == ["none", "  seed=0", "  engine.batch=1", "none", "  seed=1", "  engine.batch=1"]


def test_a_failed_cell_is_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    failed = dict.fromkeys(CELL) | {
        key: CELL[key] for key in ("model", "dtype", "prompt", "task", "quant", "setting", "num_examples")
    }
    tables.show_cells([failed | {"error": "out of memory"}], as_json=False)
    assert "failed" in capsys.readouterr().out


def test_json_holds_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    tables.show_cells([CELL], as_json=True)
    assert json.loads(capsys.readouterr().out) == [CELL]


def test_lines_fit_a_terminal_of_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    tables.show_cells([CELL | {"quant": "quanto_int8", "task": "bc5cdr_chemical", "peak_mib": 1234.0}], as_json=False)
    assert max(len(line.rstrip()) for line in capsys.readouterr().out.splitlines()) <= 80
