"""Whose turn a cell is, and what an earlier attempt left."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bioquant import attempts
from bioquant.journal import journal
from test_journal import PREDICTION

HERE = {"gpu": "A100", "torch": "2.13", "platform": "Linux-6.1"}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BIOQUANT_ROOT", str(tmp_path))
    return tmp_path


def attempt(project: Path, name: str, number: int) -> Path:
    """A folder whose journal holds so many predictions, noted as the cell's last attempt."""
    folder = project / name
    folder.mkdir()
    attempts.take_over("cell", folder, HERE, anew=True)
    with journal(folder) as write:
        for _ in range(number):
            write(PREDICTION)
    return folder


def files(project: Path) -> set[str]:
    return {path.name for path in (project / "multirun" / ".cells").iterdir()}


def test_a_turn_is_one_process_s_at_a_time(project: Path) -> None:
    code = "from bioquant import attempts\nwith attempts.turn('cell') as ours: print(ours)"
    with attempts.turn("cell") as ours, attempts.turn("other") as too:
        assert ours
        assert too
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_a_turn_is_one_thread_s_at_a_time() -> None:
    with attempts.turn("cell"), attempts.turn("cell") as again:
        assert not again


def test_the_turn_of_a_process_that_was_killed_is_free() -> None:
    code = "import os\nfrom bioquant import attempts\nwith attempts.turn('cell'): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code], check=False)
    with attempts.turn("cell") as ours:
        assert ours


def test_a_turn_is_waited_for_and_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    got = threading.Event()

    def wait() -> None:
        with attempts.awaited_turn("cell", "a cell"):
            got.set()

    with attempts.turn("cell"):
        thread = threading.Thread(target=wait)
        thread.start()
        assert not got.wait(2 * attempts.POLL_S)
    assert got.wait(20)
    thread.join()
    assert capsys.readouterr().err == "a cell: another process is at this very cell: waiting for its end\n"


def test_what_was_journaled_before_is_taken_over(project: Path) -> None:
    before = attempt(project, "first", 2)
    folder = project / "second"
    folder.mkdir()
    assert attempts.take_over("cell", folder, HERE, anew=False) == [PREDICTION, PREDICTION]
    assert (folder / "journal.jsonl").read_bytes() == (before / "journal.jsonl").read_bytes()
    third = project / "third"
    third.mkdir()
    assert len(attempts.take_over("cell", third, HERE, anew=False)) == 2


@pytest.mark.parametrize(("name", "value", "kept"), [("gpu", "H100", 0), ("torch", "2.14", 0), ("platform", "x", 2)])
def test_a_journal_from_another_environment_is_left(project: Path, name: str, value: str, kept: int) -> None:
    attempt(project, "first", 2)
    folder = project / "second"
    folder.mkdir()
    assert len(attempts.take_over("cell", folder, {**HERE, name: value}, anew=False)) == kept


def test_anew_leaves_other_folders_journals_but_a_retry_keeps_its_own(project: Path) -> None:
    first = attempt(project, "first", 2)
    assert len(attempts.take_over("cell", first, HERE, anew=True)) == 2
    second = project / "second"
    second.mkdir()
    assert attempts.take_over("cell", second, HERE, anew=True) == []


def test_a_folder_s_journal_of_another_environment_is_not_appended_to(project: Path) -> None:
    folder = attempt(project, "first", 2)
    assert attempts.take_over("cell", folder, {**HERE, "gpu": "H100"}, anew=False) == []
    assert not (folder / "journal.jsonl").exists()


def test_a_journal_whose_folder_was_removed_is_no_trouble(project: Path) -> None:
    (attempt(project, "first", 2) / "journal.jsonl").unlink()
    folder = project / "second"
    folder.mkdir()
    assert attempts.take_over("cell", folder, HERE, anew=False) == []


def test_a_finished_cell_leaves_nothing_but_its_name_in_the_list(project: Path) -> None:
    start = attempts.mark()
    with attempts.turn("cell"):
        attempt(project, "first", 1)
        assert files(project) == {"cell.json", "cell.lock"}
        attempts.done("cell")
    assert files(project) == {"done"}
    later = attempts.mark()
    attempts.done("other")
    assert attempts.done_since(start) == {"cell", "other"}
    assert attempts.done_since(later) == {"other"}
