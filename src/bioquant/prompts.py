"""From rows to prompts: zero-shot, few-shot, chain of thought; and from a reasoned output back to its answer.

All that the items of a task share (instruction, form of the answer, fixed few-shot examples) comes first and is the
same to the byte, so that one shared-prefix cache serves them all; the item itself comes last.
"""

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice, zip_longest
from random import Random
from typing import assert_never, cast

import numpy as np
from numpy.typing import NDArray

from bioquant.config import PromptConfig, ShotSelection, TaskConfig, TaskKind
from bioquant.errors import ConfigError
from bioquant.records import Answer, Example, Message, Row
from bioquant.tasks import kind_of
from bioquant.tasks.fields import normalised

TEMPLATE_VERSION = 1
"""Part of a cell's identity: raise it with every change of what a model reads."""

CUE = "Answer:"
REASONING_CUE = "Reasoning:"

_THINK = (
    "First reason briefly, step by step. Then give the final answer in the form just described, "
    f'on a last line that starts with "{CUE}".'
)
_THINKING = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
_LINE_CUE = re.compile(
    r"^[\s*_#>-]*(?:the\s+)?(?:final\s+)?answer[\s*_]*(?::|\bis\b)[\s*_:]*", re.IGNORECASE | re.MULTILINE
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_ANY_CUE = re.compile(r"\banswer[*_]*\s*(?::|\bis\b)[\s*_:]*", re.IGNORECASE)


def build(
    rows: Sequence[Row],
    pool: Sequence[Row],
    task: TaskConfig,
    prompt: PromptConfig,
    *,
    system_prompt: str | None,
    seed: int,
) -> list[Example]:
    """One example a row: the system message where there is one, and one user message.

    Raises ConfigError where the pool holds too few examples, or a chosen one stands among the rows.
    """
    shots = chooser(pool, task, prompt, seed)(rows)
    _refuse_leaks(rows, list({shot.id: shot for shot in chain.from_iterable(shots)}.values()), task)
    return written(rows, shots, task, prompt, system_prompt=system_prompt)


def written(
    rows: Sequence[Row],
    shots: Sequence[Sequence[Row]],
    task: TaskConfig,
    prompt: PromptConfig,
    *,
    system_prompt: str | None,
) -> list[Example]:
    """One example a row, with the few-shot examples that were chosen for it."""
    system = system_turn(system_prompt)
    return [
        Example(
            id=row.id,
            messages=(*system, Message(role="user", content=_content(row, own, task, prompt))),
            row=row,
            shots=tuple(own),
        )
        for row, own in zip(rows, shots, strict=True)
    ]


def system_turn(system_prompt: str | None) -> tuple[Message, ...]:
    """What stands before a prompt; nothing for a model that has no system prompt."""
    return (Message(role="system", content=system_prompt),) if system_prompt else ()


def fitting(
    example: Example, task: TaskConfig, prompt: PromptConfig, fits: Callable[[Example], bool]
) -> Example | None:
    """The example itself where it fits, else its longest shortened form that does; None where none does.

    Looked for by halving: each form is shorter than the one before, and a text may have thousands of sentences.
    """
    if fits(example):
        return example
    shorter = places(example)
    first = bisect_left(shorter, True, key=lambda place: fits(cut(example, place, task, prompt)))
    return cut(example, shorter[first], task, prompt) if first < len(shorter) else None


Place = tuple[int, int | None]
"""How an example is shortened: few-shot examples left out, and where its text ends (None: where it always did)."""


def _long_field(row: Row) -> str:
    return "context" if "context" in row.inputs else "text"


def places(example: Example) -> list[Place]:
    """Ever shorter forms of an example that is too long for the model.

    The few-shot examples go first, the first one first, since the most similar stands last. Then the context (where
    there is none, the text) is cut at its last sentence, again and again, down to its first sentence. The question and
    the options are never cut. What is gold stays: an entity in the part that was cut away is missed.
    """
    without = [(start, None) for start in range(1, len(example.shots) + 1)]
    ends = [match.start() for match in _SENTENCE_END.finditer(example.row.inputs.get(_long_field(example.row), ""))]
    return [*without, *((len(example.shots), end) for end in reversed(ends))]


def cut(example: Example, place: Place, task: TaskConfig, prompt: PromptConfig) -> Example:
    """The form of an example that a place stands for."""
    (start, end), row = place, example.row
    if end is not None:
        field = _long_field(row)
        row = replace(row, inputs={**row.inputs, field: row.inputs[field][:end]})
    return _shown(example, row, example.shots[start:], task, prompt)


def _shown(example: Example, row: Row, shots: Sequence[Row], task: TaskConfig, prompt: PromptConfig) -> Example:
    """The example with another prompt; its row, which the answer is held against, stays whole."""
    user = Message(role="user", content=_content(row, shots, task, prompt))
    return replace(example, messages=(*example.messages[:-1], user), shots=tuple(shots), truncated=True)


def _head(task: TaskConfig, prompt: PromptConfig) -> str:
    """What all items share: the instruction with the labels, the form of the answer, the call to reason."""
    labels = "\n".join(f"- {label.name}: {label.description}".removesuffix(": ") for label in task.labels)
    instruction = task.instruction.strip().replace("{labels}", labels)
    parts = [instruction, kind_of(task.kind).answer_format(task), *([_THINK] if prompt.chain_of_thought else [])]
    return "\n\n".join(parts)


def _content(row: Row, shots: Sequence[Row], task: TaskConfig, prompt: PromptConfig) -> str:
    """The head, the few-shot examples with their gold answers, and the item with its cue."""
    cue = REASONING_CUE if prompt.chain_of_thought else CUE
    shown = [worked(shot, task) for shot in shots]
    return "\n\n".join([_head(task, prompt), *shown, f"{kind_of(task.kind).show(row)}\n{cue}"])


def worked(row: Row, task: TaskConfig) -> str:
    """An example with its gold answer, as a few-shot prompt shows it."""
    kind = kind_of(task.kind)
    gap = "\n" if task.kind is TaskKind.ner else " "  # entities take a line each
    return f"{kind.show(row)}\n{CUE}{gap}{kind.answer_text(row.target)}"


Chooser = Callable[[Sequence[Row]], Sequence[Sequence[Row]]]
"""The few-shot examples of each of some rows."""


def chooser(pool: Sequence[Row], task: TaskConfig, prompt: PromptConfig, seed: int) -> Chooser:
    """What chooses each row's few-shot examples; what it must know of the pool is worked out here, once.

    Raises ConfigError where the pool holds too few examples.
    """
    if prompt.selection is ShotSelection.knn and prompt.num_shots:
        check(task, prompt, len(pool))
        return neighbours(pool, prompt)
    return always(fixed_shots(pool, task, prompt, seed))


def always(shots: Sequence[Row]) -> Chooser:
    """The same few-shot examples for every row."""
    return lambda rows: [shots] * len(rows)


def fixed_shots(pool: Sequence[Row], task: TaskConfig, prompt: PromptConfig, seed: int) -> Sequence[Row]:
    """The few-shot examples that all rows of a task share; none for kNN, which chooses for each row.

    Raises ConfigError where the pool holds too few examples.
    """
    check(task, prompt, len(pool))
    match prompt.selection:
        case _ if prompt.num_shots == 0:
            return ()
        case ShotSelection.first:
            return pool[: prompt.num_shots]
        case ShotSelection.balanced:
            return balanced(pool, task, prompt.num_shots)
        case ShotSelection.random:
            return Random(seed).sample(pool, prompt.num_shots)
        case ShotSelection.knn:
            return ()
        case _:
            assert_never(prompt.selection)


def unmet(task: TaskConfig, prompt: PromptConfig, num_pool: int) -> str | None:
    """What this task has not that the prompting method needs, in words; None where nothing is missing."""
    if task.kind not in prompt.kinds:
        return f"prompt '{prompt.name}' makes no sense for {task.kind} tasks (prompt.kinds: {', '.join(prompt.kinds)})"
    if prompt.num_shots <= num_pool:
        return None
    if task.pool is None and num_pool == 0:
        return f"prompt.num_shots={prompt.num_shots} but task '{task.name}' has no few-shot pool"
    return (
        f"prompt.num_shots={prompt.num_shots} but the few-shot pool of task '{task.name}' holds only {num_pool} "
        f"example{'' if num_pool == 1 else 's'}"
    )


def check(task: TaskConfig, prompt: PromptConfig, num_pool: int) -> None:
    """Whether the prompting method can be used on the task. Raises ConfigError."""
    reason = unmet(task, prompt, num_pool)
    if reason is not None:
        way_out = "choose another prompt" if task.kind not in prompt.kinds else "lower prompt.num_shots"
        raise ConfigError(f"{reason}: {way_out} or choose another task")


def balanced(pool: Sequence[Row], task: TaskConfig, num_shots: int) -> list[Row]:
    """The first rows of each label in turn, in the label set's order.

    NER: rows with and without entities in turn. MLC: rows that cover the labels, again and again.
    """
    match task.kind:
        case TaskKind.mlc:
            return _covering(pool, num_shots)
        case TaskKind.ner:
            groups = [[row for row in pool if row.target], [row for row in pool if not row.target]]
        case TaskKind.re | TaskKind.qa:
            choices = sorted({cast(str, row.target) for row in pool})
            names = [label.name for label in task.labels] or choices
            groups = [[row for row in pool if row.target == name] for name in names]
        case _:
            assert_never(task.kind)
    in_turn = (row for turn in zip_longest(*groups) for row in turn if row is not None)
    return list(islice(in_turn, num_shots))


def _covering(pool: Sequence[Row], num_shots: int) -> list[Row]:
    """Greedy: each time the first row that adds most labels; once all are covered, from the start again."""
    left, chosen, covered = list(pool), list[Row](), set[str]()
    while len(chosen) < num_shots:
        gains = [len(set(cast(tuple[str, ...], row.target)) - covered) for row in left]
        if covered and max(gains) == 0:
            covered.clear()
            continue
        chosen.append(left.pop(gains.index(max(gains))))
        covered |= set(cast(tuple[str, ...], chosen[-1].target))
    return chosen


def neighbours(pool: Sequence[Row], prompt: PromptConfig) -> Chooser:
    """For each row the most similar pool rows by cosine, the most similar last, next to the item."""
    similarities = _by_embedding(pool, prompt.embedding_model) if prompt.embedding_model else _by_words(pool)

    def choose(rows: Sequence[Row]) -> list[list[Row]]:
        best = [np.argsort(-row, kind="stable")[: prompt.num_shots] for row in similarities(rows)]
        return [[pool[place] for place in places[::-1]] for places in best]

    return choose


Similarities = Callable[[Sequence[Row]], Iterable[NDArray[np.floating]]]
"""For each row its similarity to every pool row."""


def _by_embedding(pool: Sequence[Row], folder: str) -> Similarities:
    from bioquant.embedding import embed  # torch, which only this option needs

    theirs = embed([_input(row) for row in pool], folder).T
    return lambda rows: embed([_input(row) for row in rows], folder) @ theirs


def _by_words(pool: Sequence[Row]) -> Similarities:
    """TF-IDF, a row at a time: the matrix is large."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # two seconds, which only this selection needs

    texts = [_input(row) for row in pool]
    vectorizer = TfidfVectorizer(sublinear_tf=True).fit(texts)
    theirs = vectorizer.transform(texts).T

    def similarities(rows: Sequence[Row]) -> Iterator[NDArray[np.floating]]:
        ours = vectorizer.transform([_input(row) for row in rows])
        return ((ours[place] @ theirs).toarray().ravel() for place in range(len(rows)))

    return similarities


def _input(row: Row) -> str:
    return "\n".join(row.inputs.values())


def leaks(test: Sequence[Row], pool: Sequence[Row]) -> list[tuple[str, str]]:
    """(test id, pool id) of every pool row that stands in the test split, by id or by normalised text."""
    by_id = {row.id: row.id for row in test}
    by_text = {normalised(_input(row)): row.id for row in reversed(test)}
    found = [(by_id.get(row.id) or by_text.get(normalised(_input(row))), row.id) for row in pool]
    return [(test_id, pool_id) for test_id, pool_id in found if test_id is not None]


def clean_pool(test: Sequence[Row], pool: Sequence[Row]) -> tuple[Row, ...]:
    """The pool without the rows that stand in the whole test split."""
    leaked = {pool_id for _, pool_id in leaks(test, pool)}
    return tuple(row for row in pool if row.id not in leaked)


def _refuse_leaks(rows: Sequence[Row], shots: Sequence[Row], task: TaskConfig) -> None:
    pairs = leaks(rows, shots)
    if pairs:
        named = ", ".join(f"pool '{pool_id}' = test '{test_id}'" for test_id, pool_id in pairs[:3])
        raise ConfigError(
            f"few-shot examples of task '{task.name}' stand in its test split: {named}"
            f"{f' and {len(pairs) - 3} more' if len(pairs) > 3 else ''}: point task.pool to other records"
        )


def final_answer(output: str, prompt: PromptConfig) -> str | None:
    """What follows the last "Answer:" of a reasoned output, to its end; the output itself without chain of thought.

    A marker at the start of a line wins over one inside a sentence. Without a marker a single line is the answer
    itself: some models give it without a reason. Several lines are reasoning that came to no answer: None, invalid.
    """
    if not prompt.chain_of_thought:
        return output
    text = _THINKING.sub("", output)
    for marker in (_LINE_CUE, _ANY_CUE):
        if found := list(marker.finditer(text)):
            return text[found[-1].end() :].strip()
    lines = text.strip().split("\n")
    return lines[0] if len(lines) == 1 and lines[0] else None


def vote(answers: Iterable[Answer | None]) -> Answer | None:
    """The most frequent answer, the first reached among equals; None only where no sample could be parsed."""
    counted = Counter(answer for answer in answers if answer is not None)
    return max(counted, key=lambda answer: counted[answer]) if counted else None
