"""Folders that are filled once: as a whole or not at all, by one process, and anew where they are broken."""

import subprocess
import sys
from pathlib import Path

import pytest

from bioquant.models.kept import kept


def written(folder: Path) -> None:
    (folder / "weights").write_text("whole", encoding="utf-8")


def refuse(folder: Path) -> None:
    raise AssertionError(f"{folder} is filled again")


def test_a_folder_is_filled_once(tmp_path: Path) -> None:
    target = tmp_path / "cache" / "it"
    assert kept(target, written) == target
    assert kept(target, refuse) == target
    assert (target / "weights").read_text(encoding="utf-8") == "whole"


def test_what_fails_leaves_nothing_and_what_was_killed_is_removed(tmp_path: Path) -> None:
    target = tmp_path / "it"

    def half(folder: Path) -> None:
        written(folder)
        raise ValueError("no room")

    with pytest.raises(ValueError, match="no room"):
        kept(target, half)
    assert not list(tmp_path.glob("it*[!k]"))  # all but the lock
    (tmp_path / "it.partial").mkdir()
    (tmp_path / "it.partial" / "left").write_text("by a killed process", encoding="utf-8")
    kept(target, written)
    assert [path.name for path in target.iterdir()] == ["weights"]


def test_a_broken_folder_is_named_and_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    target = kept(tmp_path / "it", written)
    (target / "more").write_text("", encoding="utf-8")
    kept(target, written, lambda folder: "more is there" if (folder / "more").exists() else None)
    assert caplog.messages == [f"{target} is broken (more is there): it is made anew"]
    assert [path.name for path in target.iterdir()] == ["weights"]
    kept(target, refuse, lambda _: None)


def test_two_processes_at_once_fill_it_once(tmp_path: Path) -> None:
    script = (
        "import os, sys, time; from pathlib import Path; from bioquant.models.kept import kept\n"
        "def fill(folder):\n"
        "    with open(sys.argv[2], 'a') as file: file.write('filled\\n')\n"
        "    time.sleep(1)\n"
        "    (folder / 'weights').write_text('whole')\n"
        "print((kept(Path(sys.argv[1]), fill) / 'weights').read_text())"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "it"), str(tmp_path / "log")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=120)[0] for process in both] == ["whole\n", "whole\n"]
    assert (tmp_path / "log").read_text(encoding="utf-8") == "filled\n"
