"""By hand, from how each library packs; that they are what stands in a loaded model is tested where models load."""

from dataclasses import replace

import pytest

from bioquant import layer_bytes
from bioquant.config import WeightFormat
from bioquant.layer_bytes import LinearLayer, quantized_bytes, workspace_bytes
from recipes import QUANTS

LAYER = LinearLayer(4096, 4096, tied=False)
ODD = LinearLayer(100, 1000, tied=False)
WEIGHTS = 4096 * 4096


def taken(name: str, layer: LinearLayer = LAYER, **changes: object) -> int:
    quant = replace(QUANTS[name], **changes)
    return quantized_bytes(layer, quant, quant.weight_format, itemsize=2)


def test_a_block_of_another_size_has_as_many_scales_fewer():
    assert taken("bnb_nf4") == taken("bnb_nf4", block_size=64) == WEIGHTS // 2 + 64 + WEIGHTS // 64 * 4
    assert taken("bnb_nf4", block_size=128) == WEIGHTS // 2 + 64 + WEIGHTS // 128 * 4
    scales = WEIGHTS // 128
    nested = scales + (scales // 256 + 256 + 1) * 4
    assert taken("bnb_nf4_dq", block_size=128) == WEIGHTS // 2 + 64 + nested


@pytest.mark.parametrize(("name", "bits"), [("hqq_int8", 8), ("hqq_int4", 4), ("hqq_int2", 2)])
def test_hqq_packs_into_bytes_with_a_scale_and_a_zero_point_a_group(name: str, bits: int):
    assert taken(name) == WEIGHTS * bits // 8 + 2 * (WEIGHTS // 64) * 2
    assert taken(name, group_size=16) == WEIGHTS * bits // 8 + 2 * (WEIGHTS // 16) * 2


def test_hqq_packs_ten_weights_of_three_bits_into_four_bytes():
    groups = WEIGHTS // 64  # 262,144, filled up to 262,150
    assert taken("hqq_int3") == 26_215 * 64 * 4 + 2 * groups * 2


def test_gptq_has_an_index_a_column_and_a_table_where_awq_has_none():
    assert taken("awq") == WEIGHTS // 2 + WEIGHTS // 128 * 5 // 2
    assert taken("gptq") == taken("awq") + 4096 * 4 + 8 * 4


def test_torchaos_int4_is_padded_to_its_tiles_and_leaves_rows_that_are_no_multiple_of_a_group():
    assert taken("torchao_int4") == WEIGHTS // 2 + 4096 * 32 * 2 * 2
    assert taken("torchao_int4", ODD) == 100 * 1000 * 2
    small = LinearLayer(100, 1152, tied=False)  # 104 rows of 2,048
    assert taken("torchao_int4", small) == 104 * 2048 // 2 + 104 * 16 * 2 * 2


def test_a_dynamic_float8_layer_has_sides_of_sixteen():
    assert taken("torchao_fp8_dynamic") == WEIGHTS + 4096 * 4
    assert taken("torchao_fp8_dynamic", ODD) == 100 * 1000 * 2


def test_an_override_decides_the_bytes_of_its_layers_alone():
    quant = QUANTS["hqq_int4"]
    assert quantized_bytes(LAYER, quant, WeightFormat.int8, itemsize=2) == taken("hqq_int8")


def test_what_a_layer_needs_while_it_multiplies():
    def needed(name: str, tokens: int) -> int:
        return workspace_bytes(LAYER, QUANTS[name], QUANTS[name].weight_format, itemsize=2, tokens=tokens)

    assert needed("hqq_int4", 1) == needed("hqq_int4", 100) == 3 * WEIGHTS * 2
    assert needed("torchao_int8", 100) == WEIGHTS * 2
    assert needed("torchao_fp8", 100) == WEIGHTS * (2 + 4 + 4)
    assert needed("torchao_int4", 100) == 100 * 2 * (4096 + 4096)
    assert needed("torchao_fp8_dynamic", 100) == needed("ct_fp8", 100) == 100 * 9 * 4096
    assert needed("ct_int4", 100) == needed("fp8", 100)


@pytest.mark.parametrize(
    ("name", "bits"),
    [("bf16", 16), ("hqq_int8", 8.5), ("hqq_int4", 4.5), ("hqq_int3", 3.7), ("hqq_int2", 2.5), ("torchao_int4", 4.25)],
)
def test_bits_a_weight(name: str, bits: float):
    assert layer_bytes.bits_per_weight(QUANTS[name]) == pytest.approx(bits, abs=0.001)
