"""What a page holds beside prose: files to write and commands to run, marked by an HTML comment before the block.

    <!-- file: PATH -->     the block is this file's content
    <!-- run -->            the block is run; `<!-- run: KEY=VALUE … -->` adds overrides to its `bioquant run`: shorter

A page's blocks run in order, in a folder of their own. RUN_ID stands for the run that an earlier block said it logged.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MARKED = re.compile(r"^<!-- (file|run)(?:: (.+?))? -->\n```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LOGGED = re.compile(r"^logged as run (\w+)", re.MULTILINE)
BINARIES = Path(sys.executable).parent


@dataclass(frozen=True)
class Block:
    """what: file or run. argument: the path, or the overrides that are added."""

    what: str
    argument: str
    text: str

    @property
    def script(self) -> str:
        """As it is run: what it left in the background is ended with it."""
        text = re.sub(r"^(bioquant run .*?)$", rf"\1 {self.argument}", self.text, flags=re.MULTILINE)
        return f"set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n{text}"


def blocks(page: Path) -> Iterator[Block]:
    for what, argument, text in MARKED.findall(page.read_text(encoding="utf-8")):
        yield Block(what, argument, text)


def follow(page: Path, root: Path) -> list[str]:
    """Do what a page says, in a folder; returns what each command block printed. Fails at the first that fails."""
    outputs: list[str] = []
    for block in blocks(page):
        if block.what == "file":
            path = root / block.argument
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        else:
            logged = LOGGED.findall("\n".join(outputs))
            outputs.append(run(block.script.replace("RUN_ID", logged[-1] if logged else "RUN_ID"), root))
    return outputs


def run(script: str, root: Path) -> str:
    environment = {
        **os.environ,
        "BIOQUANT_ROOT": str(root),
        "COLUMNS": "100",
        "PATH": f"{BINARIES}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, f"exit code {done.returncode} of\n{script}\n{done.stdout}"
    return done.stdout
