"""How long prompts are: counted where the tokenizer is here, else estimated, else assumed."""

from dataclasses import replace
from pathlib import Path

import pytest

from bioquant import answering, models, run
from bioquant.config import ModelSource
from bioquant.engine.batching import shareable
from bioquant.engine.tokens import PromptTokenizer
from bioquant.errors import ConfigError
from bioquant.estimates import CHARACTERS_PER_TOKEN, TEMPLATE_TOKENS
from bioquant.lengths import ASSUMED, Reader, Source
from test_compose import composed


def test_with_the_tokenizer_here_tokens_are_counted_as_the_engine_counts_them() -> None:
    config = composed("model=tiny_random", "task=demo_qa", "prompt=one_shot")
    tokenizer = PromptTokenizer(models.tokenizer(config.model), None)
    ids = [tokenizer.encode(tokenizer.text(each.messages)) for each in run.prepare(config, run.read(config)).examples]
    found = Reader().lengths(config)
    assert found.source is Source.counted
    assert found.num_examples == len(ids) == 36
    assert found.shared == shareable(ids)
    assert found.shared + found.longest == max(map(len, ids))
    assert found.shared + found.mean == pytest.approx(sum(map(len, ids)) / len(ids), rel=0.01)


def test_without_it_they_are_estimated_from_characters() -> None:
    config = composed("model=llama_3_1_8b", "task=demo_qa")
    texts = ["".join(m.content for m in each.messages) for each in run.prepare(config, run.read(config)).examples]
    found = Reader().lengths(config)
    assert found.source is Source.estimated
    assert found.shared + found.longest == int(max(map(len, texts)) / CHARACTERS_PER_TOKEN) + TEMPLATE_TOKENS
    assert found.characters == sum(map(len, texts))
    assert found.shared > 16


@pytest.mark.slow
def test_an_estimate_is_rather_too_long_than_too_short(data_root: Path) -> None:
    """Held against a real tokenizer on real prompts."""
    for task in ("pubmedqa", "hoc", "medqa", "ddi2013"):
        config = composed(
            "model=smollm2_135m", f"task={task}", "prompt=five_shot", f"data.root={data_root}", "limit=50"
        )
        models.tokenizer(config.model)
        counted = Reader().lengths(config)
        away = replace(config, model=replace(config.model, source=ModelSource.hub, id="org/away", revision="0" * 40))
        estimated = Reader().lengths(away)
        assert (counted.source, estimated.source) == (Source.counted, Source.estimated)
        real, guess = (found.shared + found.longest for found in (counted, estimated))
        assert real <= guess <= 1.5 * real, task


def test_a_prompt_that_is_too_long_for_the_model_counts_as_shortened() -> None:
    config = composed("model=tiny_random", "task=demo_qa", "prompt=five_shot", "model.context_length=1000")
    found = Reader().lengths(config)
    assert found.shared + found.longest == answering.room(config) == 1000 - 8


def test_a_sample_stands_for_as_many_prompts_as_are_asked() -> None:
    assert Reader().lengths(composed("model=tiny_random", "task=demo_qa", "limit=5")).num_examples == 5
    assert Reader().lengths(composed("model=tiny_random", "task=demo_qa", "limit=500")).num_examples == 36


def test_without_the_tasks_files_prompts_are_assumed(tmp_path: Path) -> None:
    assert Reader().lengths(composed("model=tiny_random", "task=pubmedqa", f"data.root={tmp_path}")) is ASSUMED


def test_a_task_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    read = run.read
    monkeypatch.setattr(run, "read", lambda config: reads.append(config.task.name) or read(config))
    reader = Reader()
    for model in ("tiny_random", "llama_3_1_8b", "meditron_7b"):
        for prompt in ("zero_shot", "one_shot"):
            reader.lengths(composed(f"model={model}", "task=demo_qa", f"prompt={prompt}"))
    assert reads == ["demo_qa"]


def test_a_prompt_that_cannot_be_written_is_an_error(data_root: Path) -> None:
    with pytest.raises(ConfigError, match=r"^prompt\.num_shots=5 but task 'litcovid' has no few-shot pool"):
        Reader().lengths(composed("model=tiny_random", "task=litcovid", "prompt=five_shot", f"data.root={data_root}"))
