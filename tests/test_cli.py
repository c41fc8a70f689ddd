"""The command line as a user meets it."""

import json
import os
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


def test_help_is_there_at_once_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, time; start = time.perf_counter()\n"
        "from bioquant.cli import main; main(['--help'])\n"
        "seconds = time.perf_counter() - start\n"
        "heavy = {'torch', 'mlflow', 'hydra', 'omegaconf', 'numpy', 'pandas', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert seconds < 0.2, seconds\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


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
        "log a run first, for example: bioquant run limit=4\n"
    )


def test_ui_on_a_server_names_its_address(bioquant: Command) -> None:
    result = bioquant("ui", MLFLOW_TRACKING_URI="http://mlflow.example:5000")
    assert result.stdout == "The runs are on the server http://mlflow.example:5000: open that address.\n"
