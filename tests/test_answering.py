"""From prompts to predictions: what the audit asks again, and what it counts."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace

from bioquant import answering, run
from bioquant.config import RunConfig
from bioquant.engine import GenerationSettings, TokenTimes, never
from bioquant.engine.batching import Limits
from bioquant.records import Audit, Example, Generation, Message
from test_compose import composed


class Swayed:
    """A model that says yes, and to every second prompt no if it does not ride alone and whole."""

    device = "cpu"

    def __init__(self) -> None:
        self.asked: list[tuple[int, Limits]] = []

    def encode(self, messages: Sequence[Message]) -> list[int]:
        return [len(message.content) for message in messages]

    def generate(
        self,
        prompts: Sequence[Sequence[Message]],
        settings: GenerationSettings,
        *,
        skip: Collection[int] = (),
        stopped: Callable[[], bool] = never,
    ) -> Iterator[Generation]:
        assert not stopped()
        for index in (index for index in range(len(prompts)) if index not in skip):
            self.asked.append((index, settings.limits))
            alone = settings.limits == Limits(rows=1, share_prefix=False)
            yield Generation(
                index=index,
                text="Answer: yes" if alone or index % 2 == 0 else "Answer: no",
                num_prompt_tokens=1,
                num_output_tokens=1,
                finish="stop",
                input_ids_sha256="",
                seconds=1.0,
                batch_index=0,
                batch_size=settings.limits.rows,
            )

    def loglikelihood(
        self,
        prompts: Sequence[Sequence[Message]],
        choices: Sequence[Sequence[str]],
        limits: Limits,
        *,
        skip: Collection[int] = (),
        stopped: Callable[[], bool] = never,
    ) -> Iterator[tuple[int, list[float]]]:
        raise NotImplementedError

    def timed(
        self, prompts: Sequence[Sequence[Message]], settings: GenerationSettings, *, num_warmup: int
    ) -> list[TokenTimes]:
        raise NotImplementedError


def audited(number: int) -> tuple[Swayed, Audit | None]:
    """All examples are right to say yes but the last one asked again."""
    config: RunConfig = composed("model=tiny_random", "limit=6", f"engine.audit={number}", "engine.batch=4")
    found = run.prepare(config, run.read(config)).examples
    examples: list[Example] = [replace(example, row=replace(example.row, target="yes")) for example in found]
    examples[3] = replace(examples[3], row=replace(examples[3].row, target="maybe"))
    model = Swayed()
    made = dict(answering.ask(config, examples, model))
    model.asked.clear()
    return model, answering.audit(config, examples, [made[index] for index in range(6)], model)


def test_an_audit_asks_the_first_examples_again_alone_and_whole() -> None:
    model, found = audited(4)
    assert model.asked == [(index, Limits(rows=1, share_prefix=False)) for index in range(4)]
    assert found == Audit(num_examples=4, num_changed=2, num_flipped=1)  # 1 and 3 changed, but 3 is wrong either way


def test_an_audit_asks_no_more_than_there_are_and_nothing_unasked() -> None:
    assert audited(50)[1] == Audit(num_examples=6, num_changed=3, num_flipped=2)
    assert audited(0)[1] is None
