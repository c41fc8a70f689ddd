import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bioquant.engine.decoding import Decoder, Request, Rules
from bioquant.engine.packed import PackedModel
from bioquant.engine.sampling import Greedy, SeededSampler

PROMPTS = [(5, 6, 7), (8, 9), (10, 11, 12, 13, 14), (15,)]
RULES = Rules(max_new_tokens=9, end_ids=frozenset())


def packed_model() -> PackedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.5,
    )
    return PackedModel(LlamaForCausalLM(config).eval(), "cpu")


def requests(num_samples: int = 1) -> list[Request]:
    return [Request(index, sample, ids, ids) for index, ids in enumerate(PROMPTS) for sample in range(num_samples)]


def answers(
    rules: Rules, *, ahead: bool, asked: list[Request] | None = None, leave: bool = True
) -> dict[int, list[int]]:
    decoder = Decoder(packed_model(), (), 16 * 64, graphs=False)
    decoder._ahead = ahead
    rows = asked or requests()
    logits = decoder.read(rows, 64, 6)
    return {row.request.index: row.answer for row in decoder.answers(rows, logits, rules, Greedy(), leave=leave)}


ALONE = {request.index: answers(RULES, ahead=False, asked=[request])[request.index] for request in requests()}


@pytest.mark.parametrize("ahead", [False, True])
def test_rows_answer_as_they_do_alone(ahead: bool) -> None:
    assert answers(RULES, ahead=ahead) == ALONE


@pytest.mark.parametrize("leave", [False, True])
@pytest.mark.parametrize("ahead", [False, True])
def test_rows_that_end_early_leave_and_disturb_no_other(ahead: bool, leave: bool) -> None:
    """On a GPU the next step is launched before the host knows who has ended."""
    ends = frozenset({ALONE[0][1], ALONE[2][4]})
    rules = Rules(max_new_tokens=9, end_ids=ends)
    expected = {
        index: next((answer[: place + 1] for place, token in enumerate(answer) if token in ends), answer)
        for index, answer in ALONE.items()
    }
    assert len({len(answer) for answer in expected.values()}) > 2
    assert answers(rules, ahead=ahead, leave=leave) == expected


def test_a_prompt_is_read_once_for_all_its_samples() -> None:
    decoder = Decoder(packed_model(), (), 16 * 64, graphs=False)
    asked = requests(num_samples=3)
    logits = decoder.read(asked, 64, 100)
    for place in range(0, len(asked), 3):
        assert torch.equal(logits[place], logits[place + 1])
    sampler = SeededSampler(temperature=1.0, top_p=1.0, seeds=list(range(len(asked))), device="cpu")
    found = {
        (row.request.index, row.request.sample): row.answer for row in decoder.answers(asked, logits, RULES, sampler)
    }
    assert len(found) == 12
    assert len({tuple(answer) for answer in found.values()}) > 8


def test_a_token_limit_of_one_takes_no_step() -> None:
    assert answers(Rules(max_new_tokens=1, end_ids=frozenset()), ahead=True) == {
        index: answer[:1] for index, answer in ALONE.items()
    }
