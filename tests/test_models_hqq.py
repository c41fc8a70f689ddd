"""Which layers hqq is given, and which it would pack wrongly. What it makes of them: `test_quants_extra.py`."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from bioquant.config import WeightFormat
from bioquant.models import hqq
from recipes import QUANTS
from test_models import TINY


def test_weights_of_linear_layers_that_are_not_skipped_are_handed_over():
    from bioquant.models import random

    network = random.empty(random.architecture(TINY))
    recipe = replace(QUANTS["hqq_int4"], skip_modules=["lm_head", "model.layers.1"])
    quantizer: Any = hqq.HqqQuantizer(hqq.loader_config(recipe), pre_quantized=False)
    taken = [name for name, _ in network.named_parameters() if quantizer.param_needs_quantization(network, name)]
    assert len(taken) == 7
    assert all(name.startswith("model.layers.0.") and name.endswith("_proj.weight") for name in taken)
    assert not quantizer.is_serializable()


@pytest.mark.parametrize(
    ("shape", "bits", "group_size", "packs"),
    [
        ((128, 64), 4, 64, True),
        ((3, 64), 4, 64, False),  # three groups, two of which go into a byte
        ((6, 64), 2, 64, False),
        ((3, 64), 8, 64, True),
        ((3, 64), 3, 64, True),
        ((3, 100), 8, 64, False),
    ],
)
def test_groups_that_do_not_pack_into_bytes_are_refused(
    shape: tuple[int, int], bits: int, group_size: int, packs: bool
):
    if packs:
        hqq.check_packing(torch.Size(shape), bits, group_size)
        return
    with pytest.raises(ValueError, match="do not pack into whole bytes") as error:
        hqq.check_packing(torch.Size(shape), bits, group_size)
    assert str(error.value) == (
        f"{shape[0]} x {shape[1]} weights of {bits} bits do not pack into whole bytes in groups of {group_size}"
    )


def test_every_format_of_the_method_has_its_bits():
    from bioquant.layer_bytes import BITS
    from bioquant.quantization import FORMATS

    assert {BITS[found] for found in FORMATS[QUANTS["hqq_int4"].method]} == {8, 4, 3, 2}
    assert BITS[WeightFormat.int3] == 3


@pytest.fixture
def allocator(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What torch's allocator is told; no variable of a user's is set."""
    told: list[str] = []
    monkeypatch.setattr(torch._C, "_accelerator_setAllocatorSettings", told.append)
    for variable in hqq.ALLOCATOR_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    return told


def test_a_gpus_memory_grows_in_segments_while_hqq_loads_and_only_then(allocator: list[str]):
    def fails() -> None:
        with hqq.unfragmented("cuda:0"):
            assert allocator == ["expandable_segments:True"]
            raise ValueError("a layer that does not pack")

    with pytest.raises(ValueError, match="does not pack"):
        fails()
    assert allocator == ["expandable_segments:True", "expandable_segments:False"]


def test_the_allocator_is_left_alone_on_a_cpu_and_where_a_user_has_set_it(
    allocator: list[str], monkeypatch: pytest.MonkeyPatch
):
    with hqq.unfragmented("cpu"):
        assert allocator == []
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:512")
    with hqq.unfragmented("cuda:0"):
        assert allocator == []
