"""What a prediction keeps once texts are withheld, that it scores the same, and what messages say instead."""

import json
import logging
import pickle
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from bioquant import answering, datasets, files, journal, privacy, recipe, run
from bioquant.config import DataFormat, PrivacyConfig, RunConfig, TaskKind
from bioquant.errors import DataError
from bioquant.evidence import tally
from bioquant.records import Example, Generation, Prediction
from bioquant.tasks import kind_of
from bioquant.tasks.fields import label_names
from private_parts import SECRET_WORDS, leaks
from test_compose import composed
from test_datasets_load import task, write_lines

WORD = SECRET_WORDS[2]
"""By this name, since a traceback shows lines of the source."""

PRIVATE = PrivacyConfig(log_text=False)


@pytest.fixture
def withheld(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process without texts in its messages, for one test."""
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(logging.Logger, "callHandlers", logging.Logger.callHandlers)
    privacy.withhold(PRIVATE)
    yield
    privacy.withhold(PrivacyConfig())


SAID = {
    "demo_ner": ["{gold}", "{gold}\nDisease: Ghostembria\nOutputtia: aspirin", "none", "It has no entity, Varnhagen."],
    "demo_re": ["{gold}", "no relation of Outputtia", "", "  \n"],
    "demo_mlc": ["{gold}", "Outputtia; Oncology", "Oncology", "none"],
    "demo_qa": ["{gold}", "Outputtia", "yes", "no, or yes"],
}


def predictions(config: RunConfig) -> list[tuple[Example, Prediction]]:
    """Four examples, answered rightly, partly, otherwise, not at all."""
    cell = run.prepare(config, run.read(config))
    kind = kind_of(config.task.kind)
    made: list[tuple[Example, Prediction]] = []
    for place, (example, said) in enumerate(zip(cell.examples, SAID[config.task.name], strict=True)):
        text = said.replace("{gold}", kind.answer_text(example.row.target))
        drawn = Generation(
            index=place, text=text, num_prompt_tokens=1, num_output_tokens=1, finish="stop", input_ids_sha256="a",
            seconds=1.0, batch_index=0, batch_size=1,
        )  # fmt: skip
        made.append((example, answering.predict(config, example, [drawn])))
    return made


@pytest.mark.parametrize("name", SAID)
def test_a_prediction_without_text_scores_as_the_one_with_it(name: str, tmp_path: Path) -> None:
    config = composed("model=tiny_random", f"task={name}", "limit=4")
    kind, labels = kind_of(config.task.kind), label_names(config.task)
    made = predictions(config)
    rows = [example.row for example, _ in made]
    whole = [prediction for _, prediction in made]
    bare = [privacy.without_text(prediction, example, labels) for example, prediction in made]
    assert any(prediction.correct for prediction in bare)
    for scores in (kind.score, kind.per_label):
        named = {"resamples": 50, "seed": 0} if scores == kind.score else {}
        with_text = scores(rows, [one.answer for one in whole], config.task, **named)  # pyright: ignore
        assert scores(rows, [one.answer for one in bare], config.task, **named) == with_text  # pyright: ignore
    of_whole = tally(str(config.task.kind), [row.target for row in rows], [one.answer for one in whole])
    of_bare = tally(str(config.task.kind), [one.target for one in bare], [one.answer for one in bare])
    assert of_bare.counts.tolist() == of_whole.counts.tolist()
    journal.write_predictions(tmp_path, bare, rows)
    words = {word for row in rows for text in row.inputs.values() for word in text.split() if len(word) > 8}
    words -= {word for label in labels for word in label.split()}
    assert len(words) >= 9
    assert leaks(tmp_path, sorted(words)) == []
    assert leaks(tmp_path, SECRET_WORDS) == []


def test_entities_keep_their_places_and_the_models_own_types_are_not_named() -> None:
    config = composed("model=tiny_random", "task=demo_ner", "limit=4")
    example, prediction = predictions(config)[1]
    bare = privacy.without_text(prediction, example, label_names(config.task))
    gold = len(example.row.target)
    assert isinstance(bare.answer, tuple)
    assert [repr(span) for span in bare.answer[gold:]] == [
        "Span(start=-1, end=-1, label='Disease', text='')",
        "Span(start=-1, end=-1, label='(other)', text='')",
    ]
    assert journal.shown(bare.answer).endswith("Disease: [-1:-1]; (other): [-1:-1]")


def test_an_outputs_hash_needs_its_prompt_and_an_empty_output_stays_empty() -> None:
    config = composed("model=tiny_random", "task=demo_re", "limit=4")
    (example, first), *_, (_, last) = predictions(config)
    bare = privacy.without_text(first, example, ("x",))
    assert bare.prompt == privacy.digest(first.prompt)
    assert bare.outputs == (privacy.digest(first.prompt, first.outputs[0]),)
    assert bare.outputs != (privacy.digest(first.outputs[0]),)
    assert privacy.without_text(last, example, ()).outputs == ("",)


def test_a_cell_goes_on_from_a_journal_without_text(tmp_path: Path) -> None:
    config = composed(
        "model=tiny_random", "limit=4", "engine.max_new_tokens=4", "privacy.log_text=false", "engine.batch=1"
    )
    cell, loaded = run.prepare(config, run.read(config)), run.load(config)
    quiet = replace(
        cell, config=replace(config, measure=replace(config.measure, latency_examples=0, bootstrap_resamples=50))
    )
    result = run.run_cell(quiet, tmp_path / "whole", loaded)
    (tmp_path / "again").mkdir()
    lines = (tmp_path / "whole" / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "again" / "journal.jsonl").write_bytes(b"".join(lines[:2]))
    earlier = journal.take_over(tmp_path / "again", tmp_path / "again")
    assert [one.example_id for one in earlier] == [json.loads(line)["example_id"] for line in lines[:2]]
    again = run.run_cell(quiet, tmp_path / "again", loaded, earlier)
    whole, repeated = ((tmp_path / name / "predictions.jsonl").read_bytes() for name in ("whole", "again"))
    assert repeated == whole
    assert again.scores == result.scores
    assert pd.read_parquet(tmp_path / "whole" / "predictions.parquet")["output"].str.startswith("sha256:").all()


def test_a_run_with_texts_is_another_run_of_the_same_cell() -> None:
    """So that neither goes on from the other's journal, nor is taken for it; what they answered may be compared."""
    config = composed("model=tiny_random")
    dataset = run.read(config)
    with_text, without = (run.prepare(one, dataset) for one in (config, replace(config, privacy=PRIVATE)))
    assert with_text.cell_id == without.cell_id
    assert with_text.fingerprint != without.fingerprint


def test_a_recipe_without_text_reads_its_examples_from_the_pool() -> None:
    config = composed("model=tiny_random", "prompt=one_shot", "limit=4")
    kept, bare = (
        recipe.of_plan(run.prepare(one, run.read(one)), {}) for one in (config, replace(config, privacy=PRIVATE))
    )
    assert (len(kept.shots), kept.dataset_sha256) == (1, None)
    assert (bare.shots, bare.dataset_sha256) == ((), run.read(config).digest)
    none = replace(config, privacy=PRIVATE, prompt=composed("prompt=zero_shot").prompt)
    assert recipe.of_plan(run.prepare(none, run.read(none)), {}).dataset_sha256 is None


@pytest.mark.usefixtures("withheld")
def test_a_mistake_in_a_data_file_is_told_without_its_text(tmp_path: Path) -> None:
    entity = {"start": 0, "end": 4, "type": "D", "text": "Brombachtal"}
    write_lines(tmp_path / "x", {"text": "Varnhagen of Brombachtal", "entities": [entity]})
    with pytest.raises(DataError) as caught:
        datasets.load(task(TaskKind.ner, DataFormat.jsonl, "x", labels=["D"]), tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/x:1: the entity at 0-4 is (4 characters, withheld: privacy.log_text=false) in the text but "
        "(11 characters, withheld: privacy.log_text=false) in the record"
    )
    (tmp_path / "x").write_text("Varnhagen\tof Brombachtal\nMirkwoodian\tb\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        datasets.load(task(TaskKind.re, DataFormat.tsv, "x"), tmp_path)
    assert not [word for word in SECRET_WORDS if word in str(caught.value)]
    assert "The record has: (3 names, withheld: privacy.log_text=false)." in str(caught.value)


@pytest.mark.usefixtures("withheld")
def test_a_log_says_where_and_not_what(tmp_path: Path) -> None:
    def fail() -> None:
        logging.getLogger("library").warning("read %s", "Quillaxitis")
        logging.getLogger("bioquant.x").warning("no latency")
        try:
            int(WORD)
        except ValueError as error:
            raise RuntimeError(WORD) from error

    with pytest.raises(RuntimeError), files.logged(tmp_path):
        fail()
    log = (tmp_path / "run.log").read_text(encoding="utf-8")
    assert not [word for word in SECRET_WORDS if word in log]
    assert "WARNING library: (withheld: privacy.log_text=false)" in log
    assert "WARNING bioquant.x: no latency" in log
    assert "ValueError (withheld: privacy.log_text=false)\nwhich led to\n" in log
    assert "in fail" in log


@pytest.mark.usefixtures("withheld")
def test_what_leaves_a_job_holds_no_words() -> None:
    with pytest.raises(privacy.WithheldError) as caught, privacy.wordless():
        int(WORD)
    pickled = pickle.dumps(caught.value)
    assert WORD.encode() not in pickled
    found = pickle.loads(pickled)  # noqa: S301 - as a launcher does
    assert (found.kind, str(found)) == ("ValueError", "ValueError (withheld: privacy.log_text=false)")
    with pytest.raises(DataError), privacy.wordless():
        raise DataError("ours")
    privacy.withhold(PrivacyConfig())
    with pytest.raises(ValueError, match=WORD), privacy.wordless():
        int(WORD)


@pytest.mark.usefixtures("withheld")
def test_an_uncaught_error_and_a_warning_say_where_and_not_what(capsys: pytest.CaptureFixture[str]) -> None:
    sys.excepthook(ValueError, ValueError(WORD), None)
    thread = threading.Thread(target=lambda: int(WORD))
    thread.start()
    thread.join()
    shown = capsys.readouterr().err
    assert shown.count("ValueError (withheld: privacy.log_text=false)") == 2
    assert WORD not in shown
    assert warnings.formatwarning(WORD, UserWarning, "x.py", 3) == (
        "x.py:3: UserWarning: withheld: privacy.log_text=false\n"
    )
    privacy.withhold(PrivacyConfig())
    sys.excepthook(ValueError, ValueError(WORD), None)
    assert f"ValueError: {WORD}" in capsys.readouterr().err
