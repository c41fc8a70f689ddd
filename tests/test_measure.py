import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pynvml
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bioquant import measure, timeline
from bioquant.engine import GenerationSettings, TokenTimes
from bioquant.engine.batching import Limits
from bioquant.engine.transformers import TransformersModel
from bioquant.measure import energy, latency, memory, nvml, series
from bioquant.measure.machine import git_commit
from bioquant.measure.memory import MemoryMeter, MemoryPeak
from bioquant.models import random
from bioquant.records import Message, Prediction

linux = pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
SETTINGS = GenerationSettings(max_new_tokens=4, limits=Limits(rows=8), num_samples=5)
PROMPTS = [[Message(role="user", content=text)] for text in ("one", "two", "three")]


class Recorder(TransformersModel):
    """A tiny real model that notes what it was asked to time."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=260,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            bos_token_id=random.BOS_ID,
            eos_token_id=random.END_ID,
            pad_token_id=random.PAD_ID,
        )
        super().__init__(LlamaForCausalLM(config).eval(), random.tokenizer(), "cpu", 256)
        self.asked: list[tuple[list[str], GenerationSettings, int]] = []

    def timed(
        self, prompts: Sequence[Sequence[Message]], settings: GenerationSettings, *, num_warmup: int
    ) -> list[TokenTimes]:
        self.asked.append(([prompt[0].content for prompt in prompts], settings, num_warmup))
        return super().timed(prompts, settings, num_warmup=num_warmup)


def prediction(batch_index: int, seconds: float) -> Prediction:
    return Prediction(
        example_id="1",
        prompt="",
        outputs=("yes",),
        answer="yes",
        target="yes",
        correct=True,
        num_prompt_tokens=100,
        num_output_tokens=3,
        finish="stop",
        input_ids_sha256="",
        seconds=seconds,
        batch_index=batch_index,
        batch_size=2,
    )


@linux
def test_peak_sees_what_is_freed_again_and_the_next_meter_does_not() -> None:
    first = MemoryMeter("cpu")
    first.reset()
    before = memory.resident()
    block = np.ones(200 * 2**20, dtype=np.uint8)
    del block
    peak = first.peak().allocated_mib
    second = MemoryMeter("cpu")
    second.reset()
    after = second.peak().allocated_mib
    assert before is not None
    assert peak is not None
    assert after is not None
    assert peak - before == pytest.approx(200, abs=5)
    assert after - before == pytest.approx(0, abs=20)


@linux
def test_freed_small_blocks_do_not_count_for_the_next_meter() -> None:
    before = memory.resident()
    blocks = [bytearray(100_000) for _ in range(2000)]
    pinned = bytearray(100_000)  # keeps the heap's top in use, so that only trimming gives the rest back
    del blocks
    meter = MemoryMeter("cpu")
    meter.reset()
    after = meter.peak().allocated_mib
    assert len(pinned) == 100_000
    assert before is not None
    assert after is not None
    assert after - before < 40


def test_a_meter_that_was_not_reset_knows_nothing() -> None:
    assert MemoryMeter("cpu").peak() == MemoryPeak()


@linux
def test_device_figures_are_absent_on_a_cpu() -> None:
    meter = MemoryMeter("cpu")
    meter.reset()
    peak = meter.peak()
    assert peak.allocated_mib is not None
    assert (peak.reserved_mib, peak.device_mib, peak.other_processes) == (None, None, None)
    assert nvml.handle("cpu") is None


def test_energy_is_absent_on_a_cpu() -> None:
    with energy.meter("cpu") as joules:
        pass
    assert joules.total is None


def test_percentiles_are_numpys() -> None:
    seconds = np.random.default_rng(0).lognormal(size=37).tolist()
    found = latency.percentiles_ms(seconds)
    expected = np.percentile(seconds, [50, 95, 99]) * 1000
    assert [found.p50, found.p95, found.p99] == pytest.approx(expected.tolist())
    assert found.count == 37


def test_tails_need_twenty_examples() -> None:
    assert latency.percentiles_ms([1.0] * 20).p95 == 1000
    few = latency.percentiles_ms([1.0] * 19)
    assert (few.p50, few.p95, few.p99, few.count) == (1000, None, None, 19)


def test_time_per_token_is_over_what_follows_the_first() -> None:
    two = TokenTimes(num_prompt_tokens=9, token_s=(0.5, 0.6, 0.9), total_s=1.0)
    one = TokenTimes(num_prompt_tokens=9, token_s=(0.7,), total_s=0.8)
    found = latency.summarise([two, one], 1)
    assert found.ttft_ms.p50 == pytest.approx(600)
    assert found.example_ms.p50 == pytest.approx(900)
    assert found.tpot_ms is not None
    assert found.tpot_ms.p50 == pytest.approx(200)
    assert found.tpot_ms.count == 1
    assert latency.summarise([one], 1).tpot_ms is None


def test_probe_asks_for_the_prompts_again_and_again_one_at_a_time() -> None:
    model = Recorder()
    found = latency.probe(model, PROMPTS, SETTINGS, batch_size=1, num_examples=20, num_warmup=2)
    [(asked, settings, num_warmup)] = model.asked
    assert asked == (["one", "two", "three"] * 7)[:20]
    assert (settings.limits.rows, settings.num_samples, num_warmup) == (1, 1, 2)
    assert found.batch_size == 1
    assert found.ttft_ms.count == found.example_ms.count == 20
    assert found.ttft_ms.p95 is not None
    assert 0 < found.ttft_ms.p50 < found.example_ms.p50


def test_a_second_batch_size_is_timed_in_whole_groups() -> None:
    model = Recorder()
    found = latency.probe(model, PROMPTS, SETTINGS, batch_size=8, num_examples=20, num_warmup=2)
    [(asked, settings, num_warmup)] = model.asked
    assert (len(asked), settings.limits.rows, num_warmup) == (24, 8, 1)
    assert (found.batch_size, found.ttft_ms.count) == (8, 24)


def test_throughput_counts_each_batch_once() -> None:
    made = [prediction(0, 2.0), prediction(0, 2.0), prediction(0, 2.0), prediction(1, 1.0)]
    assert measure.throughput(made) == {
        "examples_per_s": pytest.approx(4 / 3),
        "prompt_tokens_per_s": pytest.approx(400 / 3),
        "output_tokens_per_s": pytest.approx(12 / 3),
    }


def test_throughput_of_nothing_is_absent() -> None:
    assert set(measure.throughput([]).values()) == {None}


def test_environment_names_versions_and_machine() -> None:
    found = measure.environment()
    assert found["bioquant"] == version("bioquant")
    assert found["torch"] == torch.__version__
    assert found["num_threads"] == str(torch.get_num_threads())
    assert {"python", "platform", "num_cpus", "transformers", "mlflow", "hydra-core", "bitsandbytes"} <= set(found)
    assert all(found.values())


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_git_commit_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    git(tmp_path, "init")
    assert git_commit(tmp_path) is None
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-m", "a")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert git_commit(tmp_path) == commit
    (tmp_path / "a").write_text("2")
    assert git_commit(tmp_path) == f"{commit}-dirty"
    below = tmp_path / "site-packages"
    below.mkdir()
    assert git_commit(below) is None
    monkeypatch.setenv("PATH", "")
    assert git_commit(tmp_path) is None


def test_the_machine_is_looked_at_while_a_cell_runs_and_at_its_end(tmp_path: Path) -> None:
    with series.recorded("cpu", tmp_path):
        sum(range(1_000_000))
    last = timeline.read(tmp_path)[-1]
    assert abs(last.timestamp_ms / 1000 - time.time()) < 60
    assert last.values.keys() == {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"}
    assert 0 < last.values["system/system_memory_usage_megabytes"] < psutil.virtual_memory().total / 1e6


def test_a_cell_that_fails_leaves_no_thread_behind(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), series.recorded("cpu", tmp_path):
        raise ZeroDivisionError
    assert threading.active_count() == before


def test_a_gpus_usage_is_what_its_driver_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(_: object) -> int:
        raise pynvml.NVMLError_NotSupported()

    monkeypatch.setattr(pynvml, "nvmlDeviceGetIndex", lambda _: 2)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", lambda _: SimpleNamespace(used=3_000_000))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", lambda _: SimpleNamespace(gpu=0))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetPowerUsage", refuses)
    assert nvml.usage(object()) == {
        "system/gpu_2_memory_usage_megabytes": 3.0,
        "system/gpu_2_utilization_percentage": 0.0,
    }
