"""What a model reads, to the byte; which examples it is shown; how its reasoned answers are read and counted."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from omegaconf import OmegaConf

from bioquant import answering, prompts, run
from bioquant.config import LabelConfig, PromptConfig, ShotSelection, SplitConfig, TaskConfig, TaskKind, conf_dir
from bioquant.datasets import files, load
from bioquant.errors import ConfigError
from bioquant.records import Answer, Generation, Row, Span
from bioquant.tasks import kind_of
from test_compose import composed

GOLDEN = Path(__file__).parent / "golden"
DEMO = ("demo_ner", "demo_re", "demo_mlc", "demo_qa")
TASKS = sorted(path.stem for path in (conf_dir() / "task").glob("*.yaml"))


def task_of(name: str) -> TaskConfig:
    composed = OmegaConf.merge(OmegaConf.structured(TaskConfig), OmegaConf.load(conf_dir() / "task" / f"{name}.yaml"))
    return cast(TaskConfig, OmegaConf.to_object(composed))


def prompt_of(name: str) -> PromptConfig:
    path = conf_dir() / "prompt" / f"{name}.yaml"
    return cast(
        PromptConfig, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(PromptConfig), OmegaConf.load(path)))
    )


def rendered(task: TaskConfig, prompt: PromptConfig, root: Path | None) -> list[str]:
    """The prompts of the first two test examples."""
    dataset = load(task, root)
    pool = prompts.clean_pool(dataset.test, dataset.pool)
    built = prompts.build(dataset.test[:2], pool, task, prompt, system_prompt=None, seed=0)
    return [example.messages[-1].content for example in built]


def check_golden(name: str, text: str) -> None:
    """Compare with the stored text. BIOQUANT_UPDATE_GOLDEN=1 stores it anew: then raise TEMPLATE_VERSION."""
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("BIOQUANT_UPDATE_GOLDEN") == "1":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), f"prompt {name} changed: raise TEMPLATE_VERSION and update"


@pytest.mark.parametrize("name", DEMO)
@pytest.mark.parametrize("prompt", ["zero_shot", "one_shot", "five_shot", "cot"])
def test_demo_prompts_are_the_stored_ones(name: str, prompt: str) -> None:
    check_golden(f"{name}__{prompt}", "\n\n=====\n\n".join(rendered(task_of(name), prompt_of(prompt), None)) + "\n")


@pytest.mark.parametrize("name", [name for name in TASKS if name not in DEMO])
def test_benchmark_prompts_have_the_stored_checksums(name: str, data_root: Path) -> None:
    task = task_of(name)
    absent = [path for path, there in files(task, data_root) if not there]
    if absent:
        pytest.skip(f"{data_root} has no {absent[0]}")
    texts = rendered(task, prompt_of("zero_shot"), data_root)
    check_golden(f"{name}__zero_shot", "".join(f"{hashlib.sha256(text.encode()).hexdigest()}\n" for text in texts))


def row(name: str, text: str, target: Answer) -> Row:
    return Row(id=name, inputs={"text": text}, target=target)


RE = TaskConfig(
    name="t",
    kind=TaskKind.re,
    labels=[LabelConfig(name="a", description="the first"), LabelConfig(name="b")],
    instruction="Which?\n{labels}",
    pool=SplitConfig(),
)
POOL = [
    row("1", "one", "b"),
    row("2", "two", "b"),
    row("3", "three", "a"),
    row("4", "four", "b"),
    row("5", "five", "a"),
]
TEST = [row("t1", "three and two", "a"), row("t2", "four", "b")]


def chosen(selection: ShotSelection, num_shots: int, seed: int = 0) -> list[list[str]]:
    """The texts of each item's shots, read off its prompt."""
    prompt = PromptConfig(name="p", num_shots=num_shots, selection=selection)
    built = prompts.build([TEST[0]] * 2, POOL, RE, prompt, system_prompt=None, seed=seed)
    blocks = [example.messages[-1].content.split("\n\n")[2:-1] for example in built]
    return [[block.split("\n")[0].removeprefix("Text: ") for block in item] for item in blocks]


def test_a_prompt_in_full() -> None:
    prompt = PromptConfig(name="p", num_shots=1)
    (built,) = prompts.build(TEST[:1], POOL, RE, prompt, system_prompt="Be brief.", seed=0)
    assert [(message.role, message.content) for message in built.messages] == [
        ("system", "Be brief."),
        (
            "user",
            "Which?\n- a: the first\n- b\n\nAnswer with exactly one label and nothing else: a or b.\n\n"
            "Text: one\nAnswer: b\n\nText: three and two\nAnswer:",
        ),
    ]


def test_what_items_share_comes_first() -> None:
    prompt = PromptConfig(name="p", num_shots=2)
    first, second = prompts.build(TEST, POOL[:2], RE, prompt, system_prompt=None, seed=0)
    shared = first.messages[-1].content.removesuffix("three and two\nAnswer:")
    assert shared.endswith("Text: two\nAnswer: b\n\nText: ")
    assert second.messages[-1].content == f"{shared}four\nAnswer:"


def test_first_takes_the_pools_order() -> None:
    assert chosen(ShotSelection.first, 2) == [["one", "two"]] * 2


def test_balanced_takes_labels_in_turn() -> None:
    assert chosen(ShotSelection.balanced, 4) == [["three", "one", "five", "two"]] * 2


def test_random_depends_on_the_seed_alone() -> None:
    assert chosen(ShotSelection.random, 3, seed=1) == chosen(ShotSelection.random, 3, seed=1)
    assert chosen(ShotSelection.random, 3, seed=1)[0] == chosen(ShotSelection.random, 3, seed=1)[1]
    assert len({tuple(chosen(ShotSelection.random, 3, seed=seed)[0]) for seed in range(10)}) > 1


def test_knn_puts_the_most_similar_last() -> None:
    items = [row("x", "aspirin pain fever", "a"), row("y", "liver enzymes", "b")]
    pool = [row("p", "liver enzymes rose", "a"), row("q", "aspirin pain", "b"), row("r", "aspirin tablets", "a")]
    picked = prompts.neighbours(pool, PromptConfig(name="p", num_shots=2))(items)
    assert [[shot.id for shot in shots] for shots in picked] == [["r", "q"], ["q", "p"]]


def test_balanced_ner_alternates_rows_with_and_without_entities() -> None:
    span = Span(start=0, end=1, label="D", text="x")
    pool = [row("1", "x1", (span,)), row("2", "x2", (span,)), row("3", "y3", ()), row("4", "x4", (span,))]
    task = TaskConfig(name="t", kind=TaskKind.ner, labels=[LabelConfig(name="D")])
    assert [shot.id for shot in prompts.balanced(pool, task, 4)] == ["1", "3", "2", "4"]


def test_balanced_mlc_covers_the_labels() -> None:
    pool = [row("1", "x", ("a",)), row("2", "y", ("a", "b")), row("3", "z", ()), row("4", "w", ("c",))]
    task = TaskConfig(name="t", kind=TaskKind.mlc, labels=[LabelConfig(name=name) for name in "abc"])
    assert [shot.id for shot in prompts.balanced(pool, task, 4)] == ["2", "4", "1", "3"]


@pytest.mark.parametrize(
    ("pool", "has_pool", "message"),
    [
        (
            POOL[:3],
            True,
            "prompt.num_shots=5 but the few-shot pool of task 't' holds only 3 examples: "
            "lower prompt.num_shots or choose another task",
        ),
        (
            [],
            False,
            "prompt.num_shots=5 but task 't' has no few-shot pool: lower prompt.num_shots or choose another task",
        ),
    ],
)
def test_too_few_examples(pool: list[Row], has_pool: bool, message: str) -> None:
    task = RE if has_pool else TaskConfig(name="t", kind=TaskKind.re, instruction="")
    with pytest.raises(ConfigError) as raised:
        prompts.build(TEST, pool, task, PromptConfig(name="p", num_shots=5), system_prompt=None, seed=0)
    assert str(raised.value) == message


def test_leaks_are_found_by_id_and_by_text_and_are_removed() -> None:
    pool = [row("t1", "other", "a"), row("9", "  (FOUR). ", "b"), row("8", "eight", "b")]
    assert prompts.leaks(TEST, pool) == [("t1", "t1"), ("t2", "9")]
    assert [kept.id for kept in prompts.clean_pool(TEST, pool)] == ["8"]


def test_a_chosen_example_that_is_a_test_example_is_refused() -> None:
    with pytest.raises(ConfigError) as raised:
        prompts.build(TEST, POOL, RE, PromptConfig(name="p", num_shots=4), system_prompt=None, seed=0)
    assert str(raised.value) == (
        "few-shot examples of task 't' stand in its test split: pool '4' = test 't2': point task.pool to other records"
    )


REASON = PromptConfig(name="cot", chain_of_thought=True)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("It rose.\nAnswer: yes", "yes"),
        ("Answer: no? Let me see.\n**Answer:** yes", "yes"),
        ("So it is.\n**Final answer**: C", "C"),
        ("So the answer is C.", "C."),
        ("Answer: C\nThis answer is based on the text.", "C\nThis answer is based on the text."),
        ("Two things.\nAnswer:\nDisease: asthma\nDisease: COPD", "Disease: asthma\nDisease: COPD"),
        ("<think>Answer: no</think>\nAnswer: yes", "yes"),
        ("C) Cholecystitis", "C) Cholecystitis"),
        ("It rose, so yes", "It rose, so yes"),
        ("It rose.\nSo it did.", None),
        ("", None),
    ],
)
def test_the_final_answer_of_a_reasoned_output(output: str, expected: str | None) -> None:
    assert prompts.final_answer(output, REASON) == expected


def test_without_reasoning_the_output_is_the_answer() -> None:
    assert prompts.final_answer("It rose, so yes", PromptConfig(name="p")) == "It rose, so yes"


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["a", "b", "b"], "b"),
        (["b", "a", "a", "b"], "b"),
        ([None, None, "a"], "a"),
        ([None, None], None),
        ([("a",), (), ()], ()),
    ],
)
def test_the_majority_counts_and_the_first_reached_breaks_ties(answers: list[Answer | None], expected: Answer) -> None:
    assert prompts.vote(answers) == expected


@pytest.mark.parametrize("name", DEMO)
def test_the_gold_answer_reads_back_as_itself(name: str) -> None:
    task = task_of(name)
    kind = kind_of(task.kind)
    dataset = load(task, None)
    for item in (*dataset.test, *dataset.pool):
        assert kind.parse(kind.answer_text(item.target), item, task) == item.target


PROMPTS = sorted(path.stem for path in (conf_dir() / "prompt").glob("*.yaml"))


@pytest.mark.parametrize("name", TASKS)
def test_any_method_composes_with_any_task(name: str, data_root: Path) -> None:
    task = task_of(name)
    dataset = load(task, data_root)
    pool = prompts.clean_pool(dataset.test, dataset.pool)[:300]
    for prompt in map(prompt_of, PROMPTS):
        if prompt.num_shots and task.pool is None:
            with pytest.raises(ConfigError, match="has no few-shot pool"):
                prompts.build(dataset.test[:2], pool, task, prompt, system_prompt=None, seed=0)
            continue
        for example in prompts.build(dataset.test[:2], pool, task, prompt, system_prompt="Be brief.", seed=0):
            system, user = example.messages
            assert (system.role, user.role, len(example.shots)) == ("system", "user", prompt.num_shots)
            assert user.content.startswith(task.instruction.split("{labels}")[0].strip())
            assert user.content.endswith("\nReasoning:" if prompt.chain_of_thought else "\nAnswer:")
            shown = [shot.inputs.get("question") or shot.inputs["text"] for shot in example.shots]
            assert all(text in user.content for text in shown)


@pytest.mark.parametrize("name", DEMO)
def test_self_consistency_counts_parsed_answers_of_each_kind(name: str) -> None:
    """Two reasoned samples that agree in meaning win over three that cannot be read, and over one of another answer."""
    config = composed(f"task={name}", "prompt=self_consistency", "prompt.num_samples=6", "limit=20")
    kind = kind_of(config.task.kind)
    examples = run.prepare(config, run.read(config)).examples
    example = next(one for one in examples if one.row.target)
    other = next(one.row.target for one in examples if one.row.target not in (example.row.target, ()))
    answer = kind.answer_text(example.row.target)
    outputs = ["I reason\nand never end", f"So.\nAnswer: {kind.answer_text(other)}", f"Because.\nAnswer: {answer}"]
    outputs += ["", f"It says so.\n**Final answer:** {answer}", "Two lines\nof nothing"]
    generation = Generation(
        index=0,
        text="",
        num_prompt_tokens=9,
        num_output_tokens=3,
        finish="stop",
        input_ids_sha256="",
        seconds=1.0,
        batch_index=0,
        batch_size=6,
    )
    made = answering.predict(config, example, [replace(generation, text=output) for output in outputs])
    assert (made.answer, made.correct, made.num_output_tokens) == (example.row.target, True, 18)
    assert made.outputs == tuple(outputs)
