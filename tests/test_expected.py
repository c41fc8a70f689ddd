"""What the cells of a sweep are expected to take."""

from dataclasses import replace

import psutil
import pytest

from bioquant.config import Device, ModelSource
from bioquant.expected import estimator, target
from bioquant.hardware import GIB, Gpu
from bioquant.sweep.preview import Estimate
from test_compose import composed
from test_sweep_cells import planned


@pytest.mark.parametrize(
    ("overrides", "gpus", "size", "name"),
    [
        ((), [Gpu("0", 8.0, 40), Gpu("1", 8.0, 24)], 24, "24 GiB of GPU memory"),
        (("policy.gpu_memory_gib=16",), [Gpu("0", 8.0, 40)], 16, "16 GiB of GPU memory"),
        (("launcher.gpus_per_worker=2",), [Gpu("0", 8.0, 40), Gpu("1", 8.0, 40)], 80, "80 GiB of GPU memory"),
        (("engine.device=cuda",), [], 80, "80 GiB of GPU memory"),
    ],
)
def test_the_card_it_is_for(overrides: tuple[str, ...], gpus: list[Gpu], size: int, name: str) -> None:
    found = target(composed(*overrides), gpus)
    assert (found.device, found.size, found.name) == (Device.cuda, size * GIB, name)


def test_cells_on_a_cpu_have_the_machine_s_memory_whatever_card_the_policy_names() -> None:
    found = target(composed("engine.device=cpu", "policy.gpu_memory_gib=16"), [Gpu("0")])
    assert (found.device, found.size) == (Device.cpu, psutil.virtual_memory().total)


def test_a_cell_has_memory_time_and_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bioquant.checkpoints.is_cached", lambda _: False)
    large = ("model=llama_3_3_70b", "engine.device=cuda")
    whole = planned(("limit=4",), large, (*large, "quant=bnb_nf4_dq"))
    tiny, full, four_bits = map(estimator([]), (cell.plan for cell in whole.cells))
    assert tiny.fits
    assert tiny.disk_mib == 0
    assert tiny.seconds is not None
    assert (full.fits, four_bits.fits) == (False, True)
    assert full.device == "80 GiB of GPU memory"
    assert full.memory_mib is not None
    assert four_bits.memory_mib is not None
    assert full.memory_mib > 2 * four_bits.memory_mib
    assert full.disk_mib == four_bits.disk_mib
    assert full.disk_mib is not None
    assert full.disk_mib > 100_000
    assert full.load_s > 100


def test_an_architecture_that_is_not_known_before_loading_has_no_estimate() -> None:
    [cell] = planned(()).cells
    model = replace(cell.plan.config.model, source=ModelSource.local, id="/nowhere", architecture={})
    plan = replace(cell.plan, config=replace(cell.plan.config, model=model))
    assert estimator([])(plan) == Estimate()
