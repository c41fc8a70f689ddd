"""Completion: what a word can become, and the script in a real bash."""

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bioquant.cli import main
from bioquant.verbs import VERBS
from bioquant.verbs.completion import SHELLS, candidates


@pytest.fixture(autouse=True)
def _unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `run --help` sets for a process of its own."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["mod"], ["models"]),
        (["nothing_like_it"], []),
        (["nothing_like_it", ""], []),
        (["run", "model=smoll"], ["model=smollm2_135m"]),
        (["run", "-m", "quant=none,bnb_nf"], ["quant=none,bnb_nf4", "quant=none,bnb_nf4_dq"]),
        (["run", "engine.batch_m"], ["engine.batch_memory_gib="]),
        (["compare", "task=demo_q"], ["task=demo_qa"]),
        (["compare", "seed"], []),
        (["tasks", "che"], ["check"]),
        (["completion", ""], list(SHELLS)),
        (["run", "--multi"], ["--multirun"]),
        (["serve", "models:/"], []),
    ],
)
def test_what_a_word_can_become(words: list[str], found: list[str]) -> None:
    assert candidates(words) == found


@pytest.mark.parametrize(
    "verb", ["run", "plan", "compare", "recommend", "register", "models", "quants", "tasks", "doctor"]
)
def test_every_verb_that_prints_a_table_has_json(verb: str) -> None:
    assert candidates([verb, "--js"]) == ["--json"]


def test_every_verb_is_offered() -> None:
    assert set(VERBS) < set(candidates([""]))


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_has_its_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert "bioquant completion words" in capsys.readouterr().out


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["completion", "csh"])
    assert caught.value.code == 2
    assert "invalid choice: 'csh'" in capsys.readouterr().err


class Bash:
    """An interactive bash on a terminal of its own."""

    def __init__(self, folder: Path) -> None:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.master, terminal = pty.openpty()
        env = {**os.environ, "PATH": path, "PS1": "ready> ", "TERM": "dumb", "INPUTRC": "/dev/null"}
        self.process = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "-i"],
            stdin=terminal, stdout=terminal, stderr=terminal, cwd=folder, env=env, start_new_session=True,
        )  # fmt: skip
        os.close(terminal)

    def type(self, keys: str, until: str) -> str:
        """What is shown after these keys, once it holds `until`."""
        os.write(self.master, keys.encode())
        shown, deadline = "", time.monotonic() + 60
        while until not in shown:
            assert time.monotonic() < deadline, shown
            if select.select([self.master], [], [], 1)[0]:
                shown += os.read(self.master, 4096).decode().replace("\a", "")  # the bell of what is ambiguous
        return shown

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on this machine")
def test_tab_in_a_real_bash(tmp_path: Path) -> None:
    bash = Bash(tmp_path)
    try:
        bash.type('eval "$(bioquant completion bash)"; echo set up\n', until="\r\nset up")
        bash.type("bioquant quan\t", until="quants ")
        bash.type("\x15bioquant run model=smoll\t", until="model=smollm2_135m ")
        bash.type("\x15bioquant run -m quant=none,bnb_in\t", until="quant=none,bnb_int8 ")
        bash.type("\x15bioquant run quant=quanto_\t", until="quanto_int")
        assert "quanto_int4" in bash.type("\t\t", until="quanto_int8")
    finally:
        bash.close()
