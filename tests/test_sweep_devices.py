"""How workers are packed on devices, and what each of them sees. No GPU is needed to say so."""

import pytest

from bioquant.config import Device
from bioquant.errors import ConfigError
from bioquant.launching import LauncherConfig
from bioquant.sweep.devices import Gpu, Slot, capability_of, chosen, device_of, slots, visible_gpus
from test_compose import composed

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


class Driver:
    """A driver's library with two GPUs, as pynvml shows it."""

    class NVMLError(Exception):
        pass

    @staticmethod
    def nvmlInit() -> None:
        pass

    @staticmethod
    def nvmlDeviceGetCount() -> int:
        return 2

    @staticmethod
    def nvmlDeviceGetHandleByIndex(index: int) -> float:
        return [8.0, 9.0][index]

    @classmethod
    def nvmlDeviceGetHandleByUUID(cls, uuid: str) -> float:
        if uuid.startswith("MIG"):
            raise cls.NVMLError
        return 8.9

    @staticmethod
    def nvmlDeviceGetCudaComputeCapability(handle: float) -> tuple[int, int]:
        return int(handle), round(handle % 1 * 10)


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        (None, [Gpu("0", 8.0), Gpu("1", 9.0)]),
        ("1", [Gpu("1", 9.0)]),
        ("GPU-abc,MIG-def", [Gpu("GPU-abc", 8.9), Gpu("MIG-def", None)]),
        ("", []),
        ("-1", []),
    ],
)
def test_what_this_process_may_not_use_is_not_counted(
    variable: str | None, expected: list[Gpu], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bioquant.sweep.devices.pynvml", Driver)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert visible_gpus() == expected


def test_no_driver_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    class Absent(Driver):
        @classmethod
        def nvmlInit(cls) -> None:
            raise cls.NVMLError

    monkeypatch.setattr("bioquant.sweep.devices.pynvml", Absent)
    assert visible_gpus() == []


@pytest.mark.parametrize(
    ("device", "gpus", "expected"),
    [
        ("auto", GPUS, Device.cuda),
        ("auto", [], Device.cpu),
        ("cpu", GPUS, Device.cpu),
        ("cuda", [], Device.cuda),
    ],
)
def test_where_a_cell_runs(device: str, gpus: list[Gpu], expected: Device) -> None:
    assert device_of(composed(f"engine.device={device}"), gpus) is expected


def test_the_least_capable_gpu_counts_and_an_unknown_one_says_nothing() -> None:
    assert capability_of(Device.cuda, [Gpu("0", 9.0), Gpu("1", 8.0)]) == 8.0
    assert capability_of(Device.cuda, [Gpu("0", 9.0), Gpu("1")]) is None
    assert capability_of(Device.cuda, []) is None
    assert capability_of(Device.cpu, [Gpu("0", 9.0)]) is None
