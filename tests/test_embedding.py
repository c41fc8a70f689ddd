"""kNN by a local encoder, with a tiny one of random weights."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from bioquant import prompts
from bioquant.config import PromptConfig
from bioquant.embedding import embed
from bioquant.errors import ConfigError
from bioquant.records import Row

WORDS = ("[PAD]", "[UNK]", "aspirin", "liver", "pain", "enzymes", "tablets")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("encoder")
    words = Tokenizer(WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    shape = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertModel(shape).save_pretrained(folder)
    return str(folder)


def test_vectors_have_unit_length_and_padding_does_not_count(encoder: str) -> None:
    alone = embed(["aspirin pain"], encoder)
    beside = embed(["aspirin pain", "liver enzymes liver enzymes liver"], encoder)
    assert np.allclose(np.linalg.norm(beside, axis=1), 1, atol=1e-5)
    assert np.allclose(alone[0], beside[0], atol=1e-5)


def test_the_same_text_is_the_nearest(encoder: str) -> None:
    texts = ["liver enzymes", "aspirin pain", "tablets"]
    pool = [Row(id=text, inputs={"text": text}, target="a") for text in texts]
    prompt = PromptConfig(name="p", num_shots=2, embedding_model=encoder)
    ((_, nearest),) = prompts.neighbours(pool, prompt)([Row(id="x", inputs={"text": "aspirin pain"}, target="a")])
    assert nearest.id == "aspirin pain"


def test_a_folder_without_an_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        embed(["x"], str(tmp_path))
    assert str(raised.value) == (
        f"prompt.embedding_model='{tmp_path}' is no model folder (it has no config.json): "
        "give the path of a downloaded encoder, or null for TF-IDF"
    )
