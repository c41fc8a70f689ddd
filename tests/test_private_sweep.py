"""A whole sweep, and what is made of it, offline and without texts: what it connected to, and what it left anywhere."""

import json
import re
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from conftest import Command
from private_parts import SECRET_WORDS, connections, leaks, record, write_tasks
from tracking_parts import free_port, server_command, serving

QUICK = ("model=tiny_random", "measure.latency_examples=0", "measure.bootstrap_resamples=100", "limit=4")
KINDS = "ward_ner,ward_qa,ward_re,ward_mlc"

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Ran:
    """A project after its commands: their output, and what was noted of their connections."""

    root: Path
    tasks: list[str]
    environment: dict[str, str]
    printed: str
    notes: Path


@pytest.fixture(scope="module")
def ran(bioquant: Command, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A sweep of all kinds at two precisions, with failures, offline and without texts."""
    data, root, notes = (tmp_path_factory.mktemp("private") / name for name in ("data", "root", "notes"))
    root.mkdir()
    tasks = write_tasks(data)
    environment = {**record(notes, said=True), "BIOQUANT_CACHE": str(root / "cache"), "HF_HUB_OFFLINE": "0"}
    sweep = bioquant(
        "run", "-m", *tasks, *QUICK, f"task={KINDS},ward_fails", "quant=none,quanto_int8", "prompt=one_shot",
        "privacy.log_text=false", "offline=true", root=root, **environment,
    )  # fmt: skip
    assert sweep.returncode == 1, sweep.stderr
    assert "1 of 10 cells failed" in sweep.stderr
    return Ran(root, tasks, environment, sweep.stdout + sweep.stderr, notes)


def test_a_sweep_leaves_no_word_of_what_was_read_or_answered(ran: Ran) -> None:
    assert leaks(ran.root) == []
    assert not [word for word in SECRET_WORDS if word in ran.printed]
    assert "ValueError (withheld: privacy.log_text=false)" in ran.printed


def test_a_failed_cells_log_says_where_and_not_what(ran: Ran) -> None:
    [log, *_] = [path for path in ran.root.rglob("run.log") if "ValueError" in path.read_text()]
    text = log.read_text()
    assert "in told_what_to_say" in text
    assert "othello: (withheld: privacy.log_text=false)" in text
    assert "KeyError (withheld: privacy.log_text=false)" in text


def test_what_is_left_are_ids_labels_offsets_and_hashes(ran: Ran) -> None:
    tables = [pd.read_parquet(path) for path in (ran.root / "multirun").rglob("predictions.parquet")]
    entities = next(table for table in tables if "Disease" in table["target"][0] and "[39:50]" in table["answer"][0])
    assert entities["example_id"].tolist() == [f"case-{number}" for number in range(4)]
    assert re.fullmatch("sha256:[0-9a-f]{64}", entities["prompt"][0])
    assert re.fullmatch("sha256:[0-9a-f]{64}", entities["output"][0])
    assert entities["target"][0] == "Disease: [39:50]"
    assert json.loads(entities["answer_json"][0]) == [
        [39, 50, "Disease", ""],
        [65, 76, "(other)", ""],
        [-1, -1, "Disease", ""],
    ]


def test_what_a_run_scores_does_not_depend_on_it(ran: Ran) -> None:
    with sqlite3.connect(ran.root / "mlruns" / "mlflow.db") as store:
        rows = store.execute("SELECT value FROM latest_metrics WHERE key = 'entity_f1'").fetchall()
    # Of three entities that were named one is right, and it is the only one there is; the quantized model named none.
    assert sorted(rows) == [(0.0,), (0.5,)]


def test_nothing_was_connected_to(ran: Ran) -> None:
    assert connections(ran.notes) == []


def test_its_runs_are_compared_recommended_and_registered_without_a_word(
    bioquant: Command, ran: Ran, tmp_path: Path
) -> None:
    notes = record(tmp_path / "notes")
    environment = {**ran.environment, **notes, "BIOQUANT_DATA": ran.tasks[-1].partition("=")[2]}
    compared = bioquant("compare", "--flips", "3", "offline=true", root=ran.root, **environment)
    assert compared.returncode == 0, compared.stderr
    assert "ward_ner · entity_f1 · 4 examples" in compared.stdout
    assert "right: A\n  none: A\n  quanto_int8: (invalid)" in compared.stdout
    chosen = bioquant("recommend", "policy.max_quality_loss=null", "offline=true", root=ran.root, **environment)
    assert chosen.returncode == 0, chosen.stderr
    [run_id] = re.findall("logged as run (\\w+)", chosen.stderr)
    made = bioquant(
        "register", f"recommendation={run_id}", "task=ward_ner", "offline=true", root=ran.root, **environment
    )
    assert made.returncode == 0, made.stderr
    [recipe] = (ran.root / "mlruns").rglob("recipe.json")
    assert json.loads(recipe.read_text())["shots"] == []
    assert len(json.loads(recipe.read_text())["dataset_sha256"]) == 64
    assert leaks(ran.root) == []
    printed = "".join(done.stdout + done.stderr for done in (compared, chosen, made))
    assert not [word for word in SECRET_WORDS if word in printed]
    assert connections(tmp_path / "notes") == []


def test_the_search_finds_the_words_of_a_run_that_keeps_them(bioquant: Command, ran: Ran, tmp_path: Path) -> None:
    """Without which the searches above would prove nothing. Logged to a real server, the one place connected to, with
    secrets in the environment, which are searched for too.
    """
    root, notes, port = tmp_path / "root", tmp_path / "notes", free_port()
    root.mkdir()
    environment = {
        **record(notes, said=True),
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": "hf_tell_nobody",
        "MLFLOW_TRACKING_PASSWORD": "open sesame",
        "MLFLOW_TRACKING_URI": f"http://ward:s3same%2Fopen@127.0.0.1:{port}",
    }
    with serving(server_command(tmp_path, port), port, root):
        done = bioquant(
            "run",
            "-m",
            *ran.tasks,
            *QUICK,
            "task=ward_ner",
            "prompt=one_shot",
            "offline=true",
            root=root,
            **environment,
        )
    assert done.returncode == 0, done.stderr
    told = {(file.rpartition("/")[2], word) for file, word in leaks(tmp_path)}
    assert {("predictions.parquet", word) for word in SECRET_WORDS} <= told
    assert ("journal.jsonl", "Ghostembria") in told
    secrets = ("hf_tell_nobody", "open sesame", "s3same")
    assert "with *** at http://ward:***@127.0.0.1" in "".join(path.read_text() for path in root.rglob("run.log"))
    assert leaks(tmp_path, secrets) == []
    assert not [secret for secret in secrets if secret in done.stdout + done.stderr]
    asked = connections(notes)
    assert {where for event, where in asked if event == "socket.connect"} == {("127.0.0.1", str(port))}
    assert {where[0] for _, where in asked} == {"127.0.0.1"}
