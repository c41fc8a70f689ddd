"""The command line as a user meets it."""

import json
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bioquant.cli import VERBS, main
from conftest import Command


def test_help_lists_every_verb(bioquant: Command) -> None:
    result = bioquant("--help")
    assert result.returncode == 0
    assert all(f"\n    {verb} " in result.stdout for verb in VERBS)


def test_no_verb_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 0
    assert "VERB" in capsys.readouterr().out


def test_an_unknown_verb_is_named_with_its_neighbour(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["modles"]) == 2
    choices = ", ".join(VERBS)
    assert capsys.readouterr().err == f"verb 'modles' is not known; did you mean 'models'? Choose from: {choices}.\n"


def test_a_users_mistake_is_one_line_and_exit_code_2(bioquant: Command) -> None:
    start = time.monotonic()
    result = bioquant("run", "limt=4")
    assert time.monotonic() - start < 5
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == (
        "error: key 'limt' is not known; did you mean 'limit'? See all keys with: bioquant run --cfg job\n"
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("verb", [["models"], ["tasks", "--json"]])
def test_a_listing_that_nobody_reads_any_more_ends_without_a_word(verb: list[str], unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [Path(sys.executable).with_name("bioquant"), *verb]
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    result = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=env, check=False)
    os.close(writer)
    assert (result.returncode, result.stderr) == (141, "")


def test_another_pipe_that_breaks_is_not_taken_for_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("bioquant.verbs.models.main", broken)
    with pytest.raises(BrokenPipeError):
        main(["models"])


def test_models_lists_what_can_be_chosen(bioquant: Command) -> None:
    listed = {line["model"]: line for line in json.loads(bioquant("models", "--json").stdout)}
    assert listed["smollm2_135m"]["licence"] == "Apache-2.0"
    assert listed["tiny_random"]["gated"] == "no"
    table = bioquant("models").stdout
    assert "smollm2_135m" in table
    assert "135M" in table


def test_tasks_says_whether_files_are_found(bioquant: Command, tmp_path: Path) -> None:
    result = bioquant("tasks", "--json", "--data", str(tmp_path))
    listed = {line["task"]: line for line in json.loads(result.stdout)}
    assert listed["demo_qa"]["found"] == "yes"
    assert listed["pubmedqa"]["found"] == "no"
    assert listed["pubmedqa"]["test file"].startswith(str(tmp_path))


@pytest.mark.slow
def test_doctor_says_what_is_there_and_what_to_do(bioquant: Command) -> None:
    result = bioquant("doctor", "--json", BIOQUANT_DATA="")
    checks = {line["check"]: line for line in json.loads(result.stdout)}
    assert checks["tracking"]["state"] == "ok"
    assert checks["data"]["what to do"] == "only demo_* tasks run"
    assert result.returncode == 0


def test_ui_names_a_store_that_is_not_there(bioquant: Command, tmp_path: Path) -> None:
    result = bioquant("ui", root=tmp_path)
    assert result.returncode == 2
    assert result.stderr == (
        f"error: tracking store '{tmp_path}/mlruns/mlflow.db' does not exist yet: "
        "log runs first, for example: bioquant run experiment=quickstart, or name another store with --uri\n"
    )


def test_ui_on_a_server_that_is_away_says_so(bioquant: Command) -> None:
    result = bioquant("ui", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert result.returncode == 2
    assert result.stderr == (
        "error: tracking store 'http://127.0.0.1:9' cannot be used: no server answers there. Start a server (bioquant "
        "ui), or set tracking.uri or MLFLOW_TRACKING_URI.\n"
    )


TABLES = [
    ["models"],
    ["tasks"],
    ["quants"],
    ["plan", "-m", "model=smollm2_135m", "quant=none,bnb_nf4", "task=demo_qa"],
]


def on_a_terminal(root: Path, *arguments: str, **environment: str) -> str:
    """What a terminal of 80 columns shows."""
    master, terminal = pty.openpty()
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    env |= {"BIOQUANT_ROOT": str(root), "TERM": "xterm-256color", "LINES": "40", "COLUMNS": "80", **environment}
    command = [Path(sys.executable).with_name("bioquant"), *arguments]
    with subprocess.Popen(command, stdout=terminal, stderr=subprocess.DEVNULL, env=env) as process:
        os.close(terminal)
        shown = b""
        try:
            while piece := os.read(master, 65536):
                shown += piece
        except OSError:  # the other side is closed
            pass
        process.wait()
    os.close(master)
    return shown.decode().replace("\r\n", "\n")


ESCAPE = "\x1b"


@pytest.mark.slow
@pytest.mark.parametrize("verb", TABLES, ids=lambda verb: verb[0])
def test_a_table_fits_80_columns_and_a_pipe_gets_it_plain(verb: list[str], bioquant: Command, tmp_path: Path) -> None:
    shown = re.sub(r"\x1b\[[0-9;]*m", "", on_a_terminal(tmp_path, *verb))
    assert [line for line in shown.splitlines() if len(line) > 80] == []
    assert "…" not in shown.replace("16 … 80", "")
    piped = bioquant(*verb, root=tmp_path)
    assert piped.stdout.strip()
    assert ESCAPE not in piped.stdout + piped.stderr


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["NO_COLOR", "dumb"])
def test_no_escape_codes_where_none_are_wanted(environment: dict[str, str], tmp_path: Path) -> None:
    assert ESCAPE in on_a_terminal(tmp_path, "quants")
    assert ESCAPE not in on_a_terminal(tmp_path, "quants", **environment)
