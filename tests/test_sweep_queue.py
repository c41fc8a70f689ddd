"""Which cell a worker takes next."""

import pytest

from bioquant.config import Device
from bioquant.sweep.cells import Cell, order
from bioquant.sweep.queue import CellQueue
from test_sweep_cells import cell

CPU, CUDA = Device.cpu, Device.cuda


def cells(
    *quants: str, device: str = "auto", tasks: tuple[str, ...] = ("demo_qa", "demo_re", "demo_mlc")
) -> list[Cell]:
    return order([cell(f"quant={q}", f"task={t}", f"engine.device={device}") for q in quants for t in tasks])


def on_cpu(_: Cell) -> Device:
    return CPU


def taken(found: Cell | None) -> tuple[str, str] | None:
    return None if found is None else (found.plan.config.quant.name, found.plan.config.task.name)


def test_a_worker_stays_with_its_group_then_takes_one_that_nobody_has_begun() -> None:
    queue = CellQueue(cells("none", "bnb_nf4"), on_cpu, joining=False)
    first = queue.take(CPU, None)
    assert taken(first) == ("none", "demo_qa")
    assert first is not None
    assert taken(queue.take(CPU, None)) == ("bnb_nf4", "demo_qa")
    assert taken(queue.take(CPU, first.group)) == ("none", "demo_re")
    assert taken(queue.take(CPU, first.group)) == ("none", "demo_mlc")
    assert queue.take(CPU, first.group) is None


def test_an_idle_worker_helps_with_the_group_that_has_most_left() -> None:
    queue = CellQueue(cells("none", "bnb_nf4"), on_cpu, joining=True)
    first, second = queue.take(CPU, None), queue.take(CPU, None)
    assert first is not None
    assert second is not None
    queue.take(CPU, first.group)
    assert taken(queue.take(CPU, ("another", "group"))) == ("bnb_nf4", "demo_re")


def test_one_cell_alone_is_not_worth_a_second_load() -> None:
    queue = CellQueue(cells("none", tasks=("demo_qa", "demo_re")), on_cpu, joining=True)
    assert queue.take(CPU, None) is not None
    assert queue.take(CPU, None) is None


@pytest.mark.parametrize(("ready_s", "joined"), [(3.0, False), (30.0, True)])
def test_a_rest_shorter_than_one_more_load_is_left_to_its_worker(ready_s: float, joined: bool) -> None:
    queue = CellQueue(cells("none", "bnb_nf4"), on_cpu, joining=True)
    first = queue.take(CPU, None)
    assert first is not None
    queue.take(CPU, None)
    queue.took(first, 20.0 + ready_s, fresh=True)
    for _ in range(2):
        second = queue.take(CPU, first.group)
        assert second is not None
        queue.took(second, ready_s, fresh=False)
    assert taken(queue.take(CPU, first.group)) == (("bnb_nf4", "demo_re") if joined else None)


def test_a_worker_gets_no_cell_of_another_device() -> None:
    queue = CellQueue(cells("none"), lambda _: CUDA, joining=True)
    assert queue.take(CPU, None) is None
    assert queue.take(CUDA, None) is not None


def test_a_cell_that_is_given_back_comes_after_the_others() -> None:
    queue = CellQueue(cells("none"), on_cpu, joining=True)
    first = queue.take(CPU, None)
    assert first is not None
    queue.give_back(first)
    assert [taken(queue.take(CPU, first.group)) for _ in range(4)] == [
        ("none", "demo_re"),
        ("none", "demo_mlc"),
        ("none", "demo_qa"),
        None,
    ]
