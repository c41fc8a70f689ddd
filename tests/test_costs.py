"""Time and disk of a sweep: from logged runs, else by arithmetic."""

from dataclasses import replace
from pathlib import Path

import pytest

from bioquant import checkpoints, compose, costs, memory, published, run, tracking
from bioquant.config import Device, ModelConfig, RunConfig, TrackingConfig
from bioquant.costs import Logged, Speed
from bioquant.errors import TrackingError
from bioquant.lengths import Lengths, Source
from recipes import QUANTS
from test_compose import composed

MODELS: dict[str, ModelConfig] = compose.options("model", ModelConfig)
NONE = QUANTS["none"]
LENGTHS = Lengths(num_examples=100, shared=1000, longest=300, mean=200, characters=350_000, source=Source.counted)


def config(*overrides: str) -> RunConfig:
    return composed("model=tiny_random", "task=demo_qa", "limit=2", "measure.latency_examples=2", *overrides)


def test_arithmetic_is_two_operations_a_parameter_and_token_and_the_weights_a_step() -> None:
    shape = memory.anatomy(MODELS["llama_3_1_8b"])
    speed = Speed(flops=1e12, bytes=1e11, read=1e9)
    assert costs.seconds(shape, 1000, 10, speed) == pytest.approx(
        2 * 8_030_261_248 * 1000 / 1e12 + 10 * shape.unquantized / 1e11
    )


def test_a_cell_reads_what_is_shared_once_and_answers_in_batches() -> None:
    shape, speed = memory.anatomy(MODELS["llama_3_1_8b"]), costs.SPEEDS[Device.cuda]
    asked = config("measure.latency_examples=0", "measure.latency_warmup=0", "engine.max_new_tokens=7")
    found = costs.cell_seconds(asked, LENGTHS, shape, 16, Device.cuda)
    assert found == pytest.approx(costs.seconds(shape, 1000 + 100 * 200, 7 * 7, speed))
    sampled = replace(asked, prompt=replace(asked.prompt, num_samples=5))
    more = costs.cell_seconds(sampled, LENGTHS, shape, 16, Device.cuda)
    assert more == pytest.approx(costs.seconds(shape, 1000 + 100 * 200, 32 * 7, speed))


def test_the_latency_probes_read_whole_prompts_one_by_one_and_in_groups() -> None:
    shape, speed = memory.anatomy(MODELS["llama_3_1_8b"]), costs.SPEEDS[Device.cpu]

    def found(*overrides: str) -> float:
        asked = config("measure.latency_warmup=1", "engine.max_new_tokens=7", *overrides)
        return costs.cell_seconds(asked, LENGTHS, shape, 16, Device.cpu)

    without = found("measure.latency_examples=0")
    alone = found("measure.latency_batch_size=0") - without
    assert alone == pytest.approx(costs.seconds(shape, 3 * 1200, 3 * 7, speed))
    both = found("measure.latency_batch_size=2") - without
    assert both == pytest.approx(alone + costs.seconds(shape, 2 * 2 * 1200, 2 * 7, speed))


# Logged runs


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrackingConfig:
    monkeypatch.setenv("BIOQUANT_ROOT", str(tmp_path))
    return TrackingConfig(name="default", uri=f"sqlite:///{tmp_path}/mlflow.db")


def test_a_logged_run_says_how_long_its_cell_takes(store: TrackingConfig, tmp_path: Path) -> None:
    cell = config("prompt=one_shot", f"tracking.uri={store.uri}")
    _, outcome = run.run_single(cell, tmp_path / "run")
    runs = costs.history(store, Device.cpu)
    expected = Logged(outcome.metrics["throughput/examples_per_s"], outcome.metrics["load/seconds"])
    assert costs.logged(cell, runs) == expected
    assert costs.logged(config("prompt=zero_shot"), runs) == expected  # another prompt is near enough
    assert costs.logged(config("quant=bnb_nf4"), runs) is None
    assert costs.history(store, Device.cuda) == {}


def test_a_cell_is_found_before_one_with_another_prompt() -> None:
    mine, other = Logged(1.0, 2.0), Logged(3.0, 4.0)
    cell = ("transformers", "tiny_random", "none", "demo_qa")
    runs = {cell: other, (*cell, "zero_shot"): mine}
    assert costs.logged(config(), runs) == mine
    assert costs.logged(config("engine=vllm"), runs) is None


def test_a_plan_makes_no_store(store: TrackingConfig, tmp_path: Path) -> None:
    assert costs.history(store, Device.cpu) == {}
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_away_is_told() -> None:
    with pytest.raises(TrackingError):
        costs.history(TrackingConfig(name="x", uri="http://127.0.0.1:9"), Device.cpu)


def test_an_empty_store_holds_no_runs(store: TrackingConfig) -> None:
    tracking.open_store(store)
    assert costs.history(store, Device.cpu) == {}


# Disk


def test_a_checkpoint_that_is_here_is_not_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODELS["llama_3_1_8b"]
    shape = memory.anatomy(model)
    assert costs.download_bytes(model, shape, NONE) == shape.unquantized == pytest.approx(16.06e9, rel=1e-3)
    monkeypatch.setattr(checkpoints, "is_cached", lambda _: True)
    assert costs.download_bytes(model, shape, NONE) == 0


def test_a_published_checkpoint_is_as_large_as_its_bits() -> None:
    model, gptq, gguf = MODELS["llama_3_1_8b"], QUANTS["gptq"], QUANTS["gguf"]
    shape = memory.anatomy(model)
    source = published.source(model, gptq)
    assert f"{source.id}@{source.revision}" == model.calibrated["gptq"]
    quantized = 6_979_321_856  # weights of the decoder's linear layers
    assert costs.download_bytes(source, shape, gptq) == shape.unquantized - quantized * 12 // 8
    assert published.source(model, gguf) is model  # it names none
    named = replace(model, calibrated={"gguf": "org/name/a.gguf"})
    assert costs.download_bytes(published.source(named, gguf), shape, gguf) == shape.unquantized


def test_random_weights_are_not_downloaded() -> None:
    assert costs.download_bytes(MODELS["tiny_random"], memory.anatomy(MODELS["tiny_random"]), NONE) == 0


def test_results_are_about_as_large_as_what_a_run_leaves(store: TrackingConfig, tmp_path: Path) -> None:
    cell = config("limit=30", f"tracking.uri={store.uri}", "measure.latency_examples=0")
    run.run_single(cell, tmp_path / "run")
    left = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".db")
    prompts = run.prepare(cell, run.read(cell)).examples
    characters = sum(len(message.content) for example in prompts for message in example.messages)
    predicted = costs.result_bytes(replace(LENGTHS, num_examples=30, characters=characters))
    assert left == pytest.approx(predicted, rel=0.5)


def test_free_disk_is_that_of_the_folder_of_checkpoints() -> None:
    assert costs.free_disk() > 0
