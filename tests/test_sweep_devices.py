"""How workers are packed on devices, and what each of them sees. No GPU is needed to say so."""

import pytest

from bioquant.config import Device
from bioquant.errors import ConfigError
from bioquant.hardware import Gpu
from bioquant.launching import LauncherConfig
from bioquant.sweep.devices import Slot, chosen, slots

GPUS = [Gpu(str(number), 8.0) for number in range(4)]
ONLY_GPUS, ONLY_CPU, BOTH = {Device.cuda}, {Device.cpu}, {Device.cuda, Device.cpu}


def seen(found: list[Slot]) -> list[str]:
    return [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in found]


@pytest.mark.parametrize(
    ("devices", "gpus_per_worker", "expected"),
    [
        ("auto", 1, ["0", "1", "2", "3"]),
        ("auto", 2, ["0,1", "2,3"]),
        ("auto", 3, ["0,1,2"]),
        ("auto", 4, ["0,1,2,3"]),
        ([1, 3], 1, ["1", "3"]),
        ([3, 1], 2, ["3,1"]),
        (["2"], 1, ["2"]),
    ],
)
def test_each_worker_sees_its_own_gpus_and_no_others(
    devices: object, gpus_per_worker: int, expected: list[str]
) -> None:
    launcher = LauncherConfig(devices=devices, gpus_per_worker=gpus_per_worker)
    found = slots(launcher, chosen(launcher, GPUS), ONLY_GPUS, {})
    assert seen(found) == expected
    assert [slot.name for slot in found] == [f"gpu {names}" for names in expected]
    assert {slot.environment["CUDA_DEVICE_ORDER"] for slot in found} == {"PCI_BUS_ID"}
    assert {slot.device for slot in found} == ONLY_GPUS


def test_cpu_workers_share_the_threads_and_see_no_gpu() -> None:
    found = slots(LauncherConfig(cpu_workers=3), GPUS, ONLY_CPU, {"OMP_NUM_THREADS": "8"})
    assert seen(found) == ["", "", ""]
    assert [slot.environment["OMP_NUM_THREADS"] for slot in found] == ["2", "2", "2"]
    assert [slot.environment["MKL_NUM_THREADS"] for slot in found] == ["2", "2", "2"]
    assert [slot.name for slot in found] == ["cpu 0", "cpu 1", "cpu 2"]


def test_more_workers_than_threads_have_one_each() -> None:
    found = slots(LauncherConfig(cpu_workers=3), [], ONLY_CPU, {"OMP_NUM_THREADS": "2"})
    assert [slot.environment["OMP_NUM_THREADS"] for slot in found] == ["1", "1", "1"]


def test_without_a_limit_the_threads_are_the_cpus_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)))
    found = slots(LauncherConfig(cpu_workers=2), [], ONLY_CPU, {})
    assert [slot.environment["OMP_NUM_THREADS"] for slot in found] == ["3", "3"]


def test_one_worker_alone_computes_as_a_single_run_does() -> None:
    [slot] = slots(LauncherConfig(), [], ONLY_CPU, {"OMP_NUM_THREADS": "8"})
    assert slot.environment == {"CUDA_VISIBLE_DEVICES": ""}


def test_cells_of_both_kinds_get_both_kinds_of_room() -> None:
    found = slots(LauncherConfig(devices=[0]), GPUS[:1], BOTH, {"OMP_NUM_THREADS": "8"})
    assert [slot.name for slot in found] == ["gpu 0", "cpu 0"]
    assert {slot.environment["OMP_NUM_THREADS"] for slot in found} == {"4"}


def test_a_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        chosen(LauncherConfig(devices=[0, 7]), GPUS)
    assert str(caught.value) == "launcher.devices: there is no GPU 7 here. GPUs this process may use: 0, 1, 2, 3."


@pytest.mark.parametrize(("gpus", "here"), [(GPUS[:1], "0"), ([], "none")])
def test_too_few_gpus_for_a_worker(gpus: list[Gpu], here: str) -> None:
    with pytest.raises(ConfigError) as caught:
        slots(LauncherConfig(gpus_per_worker=2), gpus, ONLY_GPUS, {})
    assert str(caught.value) == (
        f"launcher.gpus_per_worker=2 but the GPUs to use are: {here}. "
        "Lower it, name more in launcher.devices, or set engine.device=cpu."
    )
