"""Which engines there are and what is refused before anything is read or imported. Word for word."""

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bioquant.config import RunConfig, Scoring
from bioquant.engine import offers
from bioquant.errors import BioquantError, ConfigError, QuantError
from bioquant.loading import LOADERS
from test_compose import composed
from vllm_parts import configured

NF4 = ("quant=bnb_nf4_dq", "model.dtype=bfloat16")


def refused(config: RunConfig, kind: type[BioquantError]) -> str:
    with pytest.raises(kind) as caught:
        offers.check(config)
    return str(caught.value)


def test_each_engine_has_what_loads_a_model_for_it() -> None:
    assert tuple(LOADERS) == offers.ENGINES


def test_neither_torch_nor_vllm_is_imported_to_say_what_is_missing() -> None:
    command = "import sys; import bioquant.engine.offers; print({'torch', 'vllm'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert told.stdout == "set()\n"


def test_an_engine_that_is_not_known_is_named() -> None:
    config = composed("model=tiny_random")
    assert refused(replace(config, engine=replace(config.engine, name="vlm")), ConfigError) == (
        "engine.name 'vlm' is not known; did you mean 'vllm'? Choose from: transformers, vllm."
    )


def test_an_absent_library_is_named_with_what_installs_it() -> None:
    assert refused(composed("engine=vllm"), ConfigError) == (
        "engine 'vllm' needs vllm, which is not installed: pip install 'bioquant[vllm]'"
    )


@pytest.mark.parametrize("name", ["bnb_nf4", "bnb_fp4", "bnb_int8", "quanto_int8", "quanto_int4"])
def test_a_recipe_that_vllm_has_not_is_refused(vllm_installed: None, checkpoint: Path, name: str) -> None:
    assert refused(configured(checkpoint, f"quant={name}"), QuantError) == (
        f"quant '{name}' does not run with engine 'vllm', which quantizes to NF4 with double quantization only: choose "
        "quant=bnb_nf4_dq, quant=none (a checkpoint quantized beforehand stays as it is), or engine=transformers."
    )


@pytest.mark.parametrize(
    ("overrides", "compute", "dtype"),
    [
        (("model.dtype=float32",), "float32", "float32"),
        (("model.dtype=float16",), "float16", "float16"),
        (("model.dtype=float32", "quant.compute_dtype=bfloat16"), "bfloat16", "float32"),
    ],
)
def test_products_in_another_dtype_are_refused(
    vllm_installed: None, checkpoint: Path, overrides: tuple[str, ...], compute: str, dtype: str
) -> None:
    assert refused(configured(checkpoint, "quant=bnb_nf4_dq", *overrides), QuantError) == (
        "quant 'bnb_nf4_dq' with engine 'vllm' multiplies in bfloat16 in a model of 16 bits, not in "
        f"{compute} (model.dtype={dtype}): set model.dtype=bfloat16, or choose engine=transformers."
    )


def test_16_bits_of_the_other_kind_will_do_where_the_recipe_computes_in_bfloat16(
    vllm_installed: None, checkpoint: Path
) -> None:
    overrides = ("quant=bnb_nf4_dq", "model.dtype=float16", "quant.compute_dtype=bfloat16")
    offers.check(configured(checkpoint, *overrides))


def test_other_skipped_modules_are_refused(vllm_installed: None, checkpoint: Path) -> None:
    config = configured(checkpoint, *NF4, "quant.skip_modules=[lm_head,down_proj]")
    assert refused(config, QuantError) == (
        "quant 'bnb_nf4_dq' with engine 'vllm': quant.skip_modules=[lm_head,down_proj] cannot be had, since vLLM "
        "quantizes all linear layers but lm_head: leave it out, or choose engine=transformers."
    )


def test_an_absent_plugin_is_named(vllm_installed: None, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(offers, "find_spec", lambda name: None if name == "vllm_bnb_plugin" else found(name))
    assert refused(configured(checkpoint, *NF4), QuantError) == (
        "quant 'bnb_nf4_dq' with engine 'vllm' needs vllm-bnb-plugin, which is not installed: "
        "pip install 'bioquant[vllm]'"
    )


def test_a_share_that_is_none_is_refused(vllm_installed: None, checkpoint: Path) -> None:
    for share in ("0.0", "1.5", "-1.0"):
        config = configured(checkpoint, f"engine.gpu_memory_utilization={share}")
        assert refused(config, ConfigError) == (
            f"engine.gpu_memory_utilization={share} is not allowed: give a number above 0, 1 at most."
        )


def test_a_loaded_model_is_shared_by_cells_that_differ_in_what_is_asked_of_it_alone(checkpoint: Path) -> None:
    engine = configured(checkpoint).engine
    shared = [
        replace(engine, **change)
        for change in ({"batch": 3}, {"batch_memory_gib": 9}, {"max_new_tokens": 9}, {"scoring": Scoring.loglikelihood})
    ]
    assert all(offers.what_is_loaded(other) == offers.what_is_loaded(engine) for other in shared)
    others = [
        replace(engine, **change)
        for change in (
            {"name": "transformers"},
            {"compile": False},
            {"prefill_tokens": 100},
            {"gpu_memory_utilization": 0.5},
        )
    ]
    assert all(offers.what_is_loaded(other) != offers.what_is_loaded(engine) for other in others)


def test_the_check_of_a_recipe_needs_logits() -> None:
    with pytest.raises(ConfigError) as caught:
        offers.check(composed("engine=vllm", "quant.check=true"))
    assert str(caught.value) == (
        "quant.check=true: engine 'vllm' gives no logits: leave it out, or set engine=transformers."
    )
