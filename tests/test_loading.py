"""Which engine a cell gets, and a whole cell through vLLM's stand-in."""

import json
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from bioquant import loading, run
from bioquant.cli import main
from bioquant.config import RunConfig
from bioquant.measure.memory import MemoryMeter
from bioquant.plan import RunPlan
from bioquant.records import RunResult
from bioquant.sweep.worker import Session
from conftest import Command
from vllm_parts import configured

QUICK = ("task=demo_qa", "limit=3", "engine.max_new_tokens=4", "measure.latency_examples=2")
SHORT = (*QUICK, "measure.latency_batch_size=2", "measure.bootstrap_resamples=100")


def cell(config: RunConfig) -> RunPlan:
    return run.prepare(config, run.read(config))


def finished(folder: Path, config: RunConfig) -> RunResult:
    return run.run_cell(cell(config), folder, run.load(config))


def test_a_cell_through_vllm_has_the_answers_of_ours_and_no_memory_peaks(
    vllm_installed: None, checkpoint: Path, tmp_path: Path
) -> None:
    theirs = finished(tmp_path / "vllm", configured(checkpoint, *SHORT))
    ours = finished(tmp_path / "ours", configured(checkpoint, *SHORT, "engine=transformers"))
    told = [
        [
            (answered["example_id"], answered["outputs"], answered["input_ids_sha256"], answered["num_output_tokens"])
            for answered in map(json.loads, (tmp_path / name / "predictions.jsonl").read_text().splitlines())
        ]
        for name in ("vllm", "ours")
    ]
    assert told[0] == told[1]
    assert theirs.scores == ours.scores
    assert theirs.input_ids_sha256 == ours.input_ids_sha256
    footprint = theirs.footprint
    assert footprint.weights_mib == ours.footprint.weights_mib > 0
    absent = ("load_peak_mib", "peak_allocated_mib", "peak_reserved_mib", "peak_device_mib", "compile_s")
    assert [getattr(footprint, name) for name in absent] == [None] * len(absent)
    assert ours.footprint.peak_allocated_mib
    assert footprint.load_s > 0
    assert footprint.examples_per_s
    assert footprint.latency
    assert footprint.latency.example_ms.count == 2
    assert footprint.latency_batched
    assert footprint.latency_batched.batch_size == 2
    environment = json.loads((tmp_path / "vllm" / "environment.json").read_text(encoding="utf-8"))
    assert (environment["vllm"], environment["vllm-bnb-plugin"]) == ("0.33.0", "0.0.3")


def test_choices_through_vllm_are_those_of_ours(vllm_installed: None, checkpoint: Path, tmp_path: Path) -> None:
    scored = (*SHORT, "engine.scoring=loglikelihood")
    for name in ("vllm", "transformers"):
        finished(tmp_path / name, configured(checkpoint, f"engine={name}", *scored))
    theirs, ours = (
        [json.loads(line) for line in (tmp_path / name / "predictions.jsonl").read_text().splitlines()]
        for name in ("vllm", "transformers")
    )
    assert [line["answer"] for line in theirs] == [line["answer"] for line in ours]
    for line, other in zip(theirs, ours, strict=True):
        assert line["choice_logprobs"] == pytest.approx(other["choice_logprobs"], abs=1e-3)


def test_the_engine_is_a_part_of_a_cells_identity(checkpoint: Path) -> None:
    same = ("engine.batch=8", "engine.compile=false")
    theirs, ours = cell(configured(checkpoint, *same)), cell(configured(checkpoint, "engine=transformers", *same))
    assert theirs.cell_id != ours.cell_id
    assert theirs.baseline_cell_id != ours.baseline_cell_id
    share = cell(configured(checkpoint, *same, "engine.gpu_memory_utilization=0.5"))
    assert share.cell_id == theirs.cell_id


def test_a_batch_of_auto_is_that_of_our_engine(checkpoint: Path) -> None:
    theirs, ours = (
        cell(configured(checkpoint, f"engine={name}", "engine.batch=auto", "engine.batch_memory_gib=16")).config.engine
        for name in ("vllm", "transformers")
    )
    assert (theirs.batch, theirs.batch_tokens) == (ours.batch, ours.batch_tokens)
    assert theirs.batch == 16
    assert theirs.batch_tokens
    assert cell(configured(checkpoint)).config.engine.batch == 1024


def test_versions_of_vllm_are_in_a_fingerprint_where_it_is_installed(
    checkpoint: Path, request: pytest.FixtureRequest
) -> None:
    before = cell(configured(checkpoint)).fingerprint
    request.getfixturevalue("vllm_installed")
    assert cell(configured(checkpoint)).fingerprint != before


def test_a_worker_loads_anew_for_another_engine_alone(vllm_installed: None, checkpoint: Path) -> None:
    session = Session(lambda _: None, threading.Event())
    first = session._load(configured(checkpoint))
    assert session._load(configured(checkpoint, "engine.batch=2")) is first
    assert session._load(configured(checkpoint, "engine=transformers")) is not first


def test_a_peak_is_kept_where_memory_grows_with_need(checkpoint: Path) -> None:
    loaded = loading.load(configured(checkpoint, "engine=transformers"))
    meter = MemoryMeter("cpu")
    meter.reset()
    read = loaded.peak(meter)
    assert read.allocated_mib
    assert asdict(replace(loaded, reserves=True).peak(meter)) == dict.fromkeys(asdict(read))


def test_without_vllm_the_command_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BIOQUANT_ROOT", str(tmp_path))
    absent = "error: engine 'vllm' needs vllm, which is not installed: pip install 'bioquant[vllm]'\n"
    for engine in (["engine=vllm"], ["-m", "engine=transformers,vllm"]):
        # Told before the task's files are looked for: these are not there.
        assert main(["run", *engine, "model=tiny_random", "task=medqa", f"data.root={tmp_path}"]) == 2
        assert capsys.readouterr() == ("", absent)


@pytest.mark.slow
def test_a_sweep_over_engines_and_quants_goes_through_workers(
    bioquant: Command, vllm_path: str, checkpoint: Path, tmp_path: Path
) -> None:
    root = tmp_path / "project"
    root.mkdir()
    model = ("model=tiny_random", "model.source=local", f"model.id={checkpoint}", "model.context_length=512")
    cells = ("engine=vllm,transformers", "quant=none,bnb_nf4_dq", "model.dtype=bfloat16", "engine.device=cpu")
    done = bioquant("run", "-m", "--json", *model, *cells, *SHORT, root=root, PYTHONPATH=vllm_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert len(rows) == 4
    assert not any(row["error"] for row in rows)
    assert [row["peak_mib"] is None for row in rows].count(True) == 2
    assert len({row["weights_mib"] for row in rows}) == 3
