"""What tests of privacy and of the network share: tasks whose texts and outputs have words of their own, a recorder of
all that is connected to, and a search for these words in everything a run leaves.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

SECRET_WORDS = ("Quillaxitis", "Zorblattine", "Varnhagen", "Mirkwoodian", "Brombachtal", "Outputtia", "Ghostembria")
"""Of inputs, questions, options, few-shot examples and outputs; nothing else holds them."""

SAID = {
    "ward_ner": "Disease: Quillaxitis\nDisease: Ghostembria\nOutputtia: Zorblattine",
    "ward_qa": "A",
    "ward_re": "treats, Outputtia",
    "ward_mlc": "Therapy; Outputtia",
    "ward_fails": "Outputtia",
    "quantized": "Disease: Ghostembria, Outputtia",
}
"""What the model is made to say, by task: a right entity, one that is not in the text, one of a type of its own; and
what a quantized one says, whatever it is asked.
"""

TASKS = {
    "ward_ner": {
        "kind": "ner",
        "labels": [{"name": "Disease"}],
        "instruction": "Name the diseases.\n{labels}",
    },
    "ward_qa": {"kind": "qa", "instruction": "Choose the answer."},
    "ward_re": {
        "kind": "re",
        "labels": [{"name": "treats"}, {"name": "none"}],
        "instruction": "How do they relate?\n{labels}",
    },
    "ward_mlc": {
        "kind": "mlc",
        "labels": [{"name": "Therapy"}, {"name": "Diagnosis"}],
        "instruction": "Which subjects?\n{labels}",
    },
}


def _text(number: int) -> str:
    return f"Patient {number} Varnhagen of Brombachtal had Quillaxitis and was given Zorblattine in a Mirkwoodian dose."


def _rows(kind: str, numbers: Sequence[int]) -> Iterator[dict[str, object]]:
    for number in numbers:
        text = _text(number)
        start = text.index("Quillaxitis")
        entity = {"start": start, "end": start + len("Quillaxitis"), "type": "Disease", "text": "Quillaxitis"}
        fields: dict[str, dict[str, object]] = {
            "ner": {"text": text, "entities": [entity]},
            "qa": {"question": text, "options": ["Zorblattine", "Mirkwoodian"], "answer": "AB"[number % 2]},
            "re": {"text": text, "label": ("treats", "none")[number % 2]},
            "mlc": {"text": text, "labels": ["Therapy"] if number % 2 else ["Therapy", "Diagnosis"]},
        }
        yield {"id": f"case-{number}", **fields[kind]}


def write_tasks(folder: Path) -> list[str]:
    """Four tasks and a fifth in which every cell fails, with their data; the arguments that name them to a command."""
    (folder / "conf" / "task").mkdir(parents=True)
    for name, task in {**TASKS, "ward_fails": {**TASKS["ward_qa"], "instruction": "Choose."}}.items():
        for split, numbers in (("test", range(4)), ("pool", range(10, 14))):
            lines = [json.dumps(row) for row in _rows(str(task["kind"]), numbers)]
            (folder / f"{name}_{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        splits = {split: {"format": "jsonl", "paths": [f"{name}_{split}.jsonl"]} for split in ("test", "pool")}
        whole = {"name": name, "description": "letters", "licence": "ours", "get": "ask", "max_new_tokens": 8}
        (folder / "conf" / "task" / f"{name}.yaml").write_text(
            json.dumps({**whole, **task, **splits}), encoding="utf-8"
        )
    return ["--config-dir", str(folder / "conf"), f"data.root={folder}"]


INSIDE = '''
"""Runs at the start of every Python: notes what it connects to; in a worker, makes the model say what it is to."""

import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).parent


def note(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        family, where = arguments[0].family.name, arguments[1]
        if family not in ("AF_INET", "AF_INET6"):
            return
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        where = arguments[:2]
    else:
        return
    line = json.dumps([os.getpid(), sys.orig_argv[-3:], event, [str(part) for part in where or ()][:2]])
    with open(HERE / "connections.jsonl", "a") as file:
        file.write(line + "\\n")


sys.addaudithook(note)

if any(argument.endswith("sweep.worker") for argument in sys.orig_argv) and (HERE / "said.json").exists():
    import logging
    import warnings

    from bioquant import run
    from bioquant.engine.tokens import PromptTokenizer

    said, task = json.loads((HERE / "said.json").read_text()), {}
    run_cell = run.run_cell

    def told_what_to_say(cell, *rest):
        task["name"] = cell.config.task.name
        task["said"] = said[task["name"] if cell.config.quant.name == "none" else "quantized"]
        known = [os.environ.get(name) for name in ("HF_TOKEN", "MLFLOW_TRACKING_URI")]
        logging.getLogger("othello").error("with %s at %s", *known)
        if (task["name"], cell.config.quant.name) == ("ward_fails", "none"):
            text = cell.examples[0].messages[-1].content
            warnings.warn(text)
            logging.getLogger("transformers.some").warning(text)
            logging.getLogger("othello").error("it read %s", text)
            raise ValueError(f"no token for {text}") from KeyError(text)
        return run_cell(cell, *rest)

    run.run_cell = told_what_to_say
    PromptTokenizer.decode = lambda self, ids: task["said"]
'''


def record(folder: Path, *, said: bool = False) -> dict[str, str]:
    """The environment in which every Python process notes its connections; with `said` workers say SAID."""
    folder.mkdir(parents=True)
    (folder / "sitecustomize.py").write_text(INSIDE, encoding="utf-8")
    (folder / "connections.jsonl").touch()
    if said:
        (folder / "said.json").write_text(json.dumps(SAID), encoding="utf-8")
    return {"PYTHONPATH": str(folder)}


def connections(folder: Path) -> list[tuple[str, tuple[str, ...]]]:
    """What was noted: the event, and the host (and port)."""
    lines = (folder / "connections.jsonl").read_text(encoding="utf-8").splitlines()
    return [(event, tuple(where)) for _, _, event, where in map(json.loads, lines)]


def leaks(folder: Path, words: Sequence[str] = SECRET_WORDS) -> list[tuple[str, str]]:
    """(file, word) for every word that stands somewhere under a folder: files, tables, databases."""
    found: list[tuple[str, str]] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        text = read(path)
        found += [(str(path.relative_to(folder)), word) for word in words if word in text or word in str(path)]
    return found


def read(path: Path) -> str:
    """A file's content as text: compressed tables and databases row by row."""
    if path.suffix == ".parquet":
        return str(pd.read_parquet(path).to_dict("list"))
    if path.suffix == ".db":
        connection = sqlite3.connect(path)
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = [connection.execute(f'SELECT * FROM "{table}"').fetchall() for table in tables]
        connection.close()
        return str(rows)
    return path.read_bytes().decode("utf-8", "replace")
