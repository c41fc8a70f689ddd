"""What the driver says of a machine's GPUs, and the memory that a batch is decided for. No GPU is needed to say so."""

from types import SimpleNamespace

import pytest

from bioquant import hardware
from bioquant.config import Device
from bioquant.hardware import Gpu, capability_of, device_of, size_gib, visible_gpus, with_budget
from test_compose import composed

GPUS = [Gpu(str(number), 8.0) for number in range(4)]


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
    def nvmlDeviceGetMemoryInfo(handle: float) -> SimpleNamespace:
        return SimpleNamespace(total=handle * 2 * 2**30)

    @staticmethod
    def nvmlDeviceGetCudaComputeCapability(handle: float) -> tuple[int, int]:
        return int(handle), round(handle % 1 * 10)


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        (None, [Gpu("0", 8.0, 16), Gpu("1", 9.0, 16)]),
        ("1", [Gpu("1", 9.0, 16)]),
        ("GPU-abc,MIG-def", [Gpu("GPU-abc", 8.9, 16), Gpu("MIG-def")]),
        ("", []),
        ("-1", []),
    ],
)
def test_what_this_process_may_not_use_is_not_counted(
    variable: str | None, expected: list[Gpu], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bioquant.hardware.pynvml", Driver)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert visible_gpus() == expected


def test_no_driver_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    class Absent(Driver):
        @classmethod
        def nvmlInit(cls) -> None:
            raise cls.NVMLError

    monkeypatch.setattr("bioquant.hardware.pynvml", Absent)
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


@pytest.mark.parametrize(
    ("mib", "size"), [(81559, 80), (40536, 40), (24564, 24), (15360, 12), (143771, 140), (24000, 24), (5000, 8)]
)
def test_memory_is_counted_in_sizes(mib: int, size: int) -> None:
    assert size_gib(mib * 2**20) == size


def budget(*overrides: str, gpus: list[Gpu] | None = None) -> int | None:
    return with_budget(composed("model=tiny_random", *overrides), gpus or []).engine.batch_memory_gib


def test_a_batch_is_decided_for_the_smallest_gpu_or_what_the_policy_leaves_of_it() -> None:
    cards = [Gpu("0", 9.0, 80), Gpu("1", 8.0, 48)]
    assert budget(gpus=cards) == 48
    assert budget("policy.gpu_memory_gib=40", gpus=cards) == 40
    assert budget("policy.gpu_memory_gib=80", gpus=cards) == 48
    assert budget(gpus=[Gpu("any")]) == hardware.UNKNOWN_GIB


def test_on_a_cpu_for_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware.psutil, "virtual_memory", lambda: SimpleNamespace(total=24 * 2**30))
    assert budget("policy.gpu_memory_gib=8") == 24


def test_what_is_given_stays() -> None:
    assert budget("engine.batch_memory_gib=20") == 20
    assert budget("engine.batch=4") is None
