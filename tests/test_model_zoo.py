"""The models to choose from: their shapes are what was published, and each family loads under every recipe."""

import hashlib
import logging
from dataclasses import replace

import pytest
from transformers import AutoConfig

from bioquant import checkpoints, compose, memory, models, quantization
from bioquant.config import Device, Domain, Dtype, ModelConfig, ModelSource, QuantConfig
from bioquant.errors import ModelError
from bioquant.models import random
from bioquant.plan import plan
from recipes import BUILT_IN
from test_compose import composed
from test_models import logits
from test_plan import DATASET

MODELS: dict[str, ModelConfig] = compose.options("model", ModelConfig)
QUANTS: dict[str, QuantConfig] = compose.options("quant", QuantConfig)
FAMILIES = {str(model.architecture["model_type"]): model for model in reversed(MODELS.values())}
"""A model of each architecture."""

SMALL = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 264,
}


def small(model: ModelConfig) -> ModelConfig:
    """The model's architecture with random weights, as small as every recipe can still quantize."""
    shape = {**model.architecture, **{key: SMALL[key] for key in SMALL if key in model.architecture}}
    return replace(model, source=ModelSource.random, dtype=Dtype.float32, context_length=512, architecture=shape)


@pytest.mark.parametrize("name", MODELS)
def test_the_architecture_has_the_published_number_of_parameters(name: str) -> None:
    network = random.empty(random.architecture(MODELS[name]))
    assert sum(parameter.numel() for parameter in network.parameters()) == MODELS[name].num_parameters


@pytest.mark.parametrize("name", MODELS)
def test_the_context_is_one_that_the_positions_reach(name: str) -> None:
    assert MODELS[name].context_length <= MODELS[name].architecture["max_position_embeddings"]


def test_every_field_of_an_architecture_is_one_that_transformers_knows() -> None:
    renamed = {
        "rope_theta",
        "rope_scaling",
        "rope_local_base_freq",
    }  # of config.json; transformers 5 keeps them elsewhere
    for model in MODELS.values():
        known = AutoConfig.for_model(model.architecture["model_type"]).to_dict().keys() | renamed
        assert model.architecture.keys() <= known, model.name


def test_a_biomedical_model_names_a_general_one_of_its_size() -> None:
    biomedical = [model for model in MODELS.values() if model.domain is Domain.biomedical]
    assert len(biomedical) == 12
    for model in biomedical:
        counterpart = MODELS[model.general_counterpart or ""]
        assert counterpart.domain is Domain.general
        assert model.num_parameters
        assert counterpart.num_parameters == pytest.approx(model.num_parameters, rel=0.02)
    assert not [model.name for model in MODELS.values() if model.domain is Domain.general and model.general_counterpart]


@pytest.mark.parametrize("quant", BUILT_IN)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_architecture_loads_under_every_recipe_in_the_predicted_bytes(family: str, quant: str) -> None:
    model = small(FAMILIES[family])
    loaded = models.load(model, QUANTS[quant], Device.cpu)
    as_loaded = quantization.as_loaded(model, QUANTS[quant])
    assert loaded.report.bytes_after == memory.weights(memory.anatomy(as_loaded), QUANTS[quant], Device.cpu)
    assert 0.3 < logits(loaded).std().item() < 3  # neither flat nor one-hot


def test_a_model_of_the_zoo_is_drawn_by_overriding_its_source() -> None:
    config = composed(
        "model=gemma_2_9b",
        "model.source=random",
        "model.architecture.num_hidden_layers=1",
        "model.architecture.hidden_size=64",
        "model.architecture.intermediate_size=128",
        "model.architecture.vocab_size=300",
    )
    network = models.load(config.model, config.quant, Device.cpu).model
    assert (network.config.model_type, network.config.hidden_size, network.config.head_dim) == ("gemma2", 64, 256)
    assert network.get_input_embeddings().weight.shape == (300, 64)


def test_the_architecture_of_a_checkpoint_is_no_part_of_its_identity_and_that_of_random_weights_is() -> None:
    def cell(*overrides: str) -> str:
        return plan(composed("model=llama_3_2_1b", *overrides), DATASET, ()).cell_id

    assert cell("model.architecture.num_hidden_layers=1") == cell()
    assert cell("model.source=random", "model.architecture.num_hidden_layers=1") != cell("model.source=random")
    assert cell("model.chat_template=false") != cell()
    assert cell("model.family=x", "model.domain=biomedical", "model.general_counterpart=y") == cell()


def test_plain_turns_take_the_chat_template_away() -> None:
    model = small(MODELS["llama_3_1_8b"])
    assert models.tokenizer(model).chat_template
    plain = replace(model, chat_template=False)
    assert models.tokenizer(plain).chat_template is None
    assert models.load(plain, QUANTS["none"], Device.cpu).tokenizer.chat_template is None


def test_a_branch_is_no_pinned_revision(caplog: pytest.LogCaptureFixture) -> None:
    commit = hashlib.sha1(b"").hexdigest()
    assert checkpoints.is_pinned(replace(MODELS["llama_3_2_1b"], revision=commit))
    assert checkpoints.is_pinned(MODELS["smollm2_135m"])
    branch = ModelConfig(name="x", source=ModelSource.hub, id="org/name", revision="main", dtype=Dtype.float32)
    with caplog.at_level(logging.WARNING), pytest.raises(ModelError):
        checkpoints.fetch_hub(branch)
    assert [record.getMessage() for record in caplog.records] == [
        "model 'x': revision 'main' is a branch, not a commit: this run cannot be repeated once it moves"
    ]
