"""`bioquant serve` and `mlflow models serve` as processes of their own: the answers of the evaluation, over HTTP."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from bioquant.cli import main
from bioquant.endpoints import RegistryConfig
from bioquant.registry import Order, register
from registered import ANY_LOSS, TINY, asked, cell, opened, predictions, project, rows_of
from test_compose import composed
from tracking_parts import free_port, serving

SMOLLM = ("model=smollm2_135m", "task=demo_ner", "prompt=one_shot", "limit=4", "engine.max_new_tokens=24")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        root = project(tmp_path_factory, patch)
        patch.delenv("BIOQUANT_CACHE")  # SmolLM2 is converted once for all tests
        yield root


def registered(root: Path, *overrides: str) -> tuple[str, dict[str, Any], list[Any]]:
    """A registered cell: its address, the request that asks all its rows, and the answers of its evaluation."""
    run_id = cell(root, *overrides)
    store = opened(root)
    made = register(store, Order(run_id=run_id, policy=ANY_LOSS, aliases=("recommended",)), RegistryConfig(name="t"))
    rows = rows_of(composed(*TINY, *overrides))
    logged = [json.loads(answer) for answer in predictions(store, run_id)["answer_json"]]
    return made.uri, {"dataframe_records": [asked(row) for row in rows]}, logged


@pytest.fixture(scope="module")
def version(root: Path) -> tuple[str, dict[str, Any], list[Any]]:
    return registered(root, "task=demo_qa", "prompt=one_shot", "engine.scoring=loglikelihood", "quant=none")


@contextmanager
def served(root: Path, uri: str) -> Iterator[tuple[str, list[str]]]:
    """The service's address, once it says so, and, after its end by SIGTERM, all lines that it has said."""
    command = [str(Path(sys.executable).with_name("bioquant")), "serve", uri, "serve.port=0"]
    process = subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True, encoding="utf-8")
    assert process.stderr is not None
    said: list[str] = []
    with process.stderr as lines:
        while not said or " on http://" not in said[-1]:
            said.append(lines.readline())
            assert said[-1], "".join(said)
        try:
            yield said[-1].split(" on ")[1].split(";")[0], said
        finally:
            process.send_signal(signal.SIGTERM)
            said += lines.readlines()
            assert process.wait(60) == 0


def entities(answers: list[dict[str, Any]]) -> list[Any]:
    """As `predictions.parquet` has them."""
    found = [one["entities"] for one in answers]
    return [one and [[e["start"], e["end"], e["type"], e["text"]] for e in one] for one in found]


@pytest.mark.slow
def test_it_answers_as_evaluated_is_well_and_says_what_it_serves(
    root: Path, version: tuple[str, dict[str, Any], list[Any]]
) -> None:
    uri, body, logged = version
    with served(root, uri) as (address, _):
        found = requests.post(f"{address}/invocations", json=body, timeout=60).json()["predictions"]
        assert [one["option"] for one in found] == logged
        assert requests.get(f"{address}/health", timeout=60).json()["status"] == "healthy"
        assert requests.get(address, timeout=60).json()["recipe"] == "tiny_random · none · demo_qa · one_shot"


@pytest.mark.slow
def test_sixteen_clients_at_once_each_get_their_own_answer_and_no_text_is_logged(
    root: Path, version: tuple[str, dict[str, Any], list[Any]]
) -> None:
    uri, body, logged = version

    def ask(number: int) -> str:
        row = body["dataframe_records"][number % len(logged)]
        reply = requests.post(f"{address}/invocations", json={"dataframe_records": [row]}, timeout=60)
        return reply.json()["predictions"][0]["option"]

    with served(root, uri) as (address, said), ThreadPoolExecutor(16) as clients:
        found = list(clients.map(ask, range(64)))
        bad = requests.post(f"{address}/invocations", json={"dataframe_records": [{"question": 7}]}, timeout=60)
    assert found == [logged[number % len(logged)] for number in range(64)]
    assert bad.status_code == 400
    assert len(said) == 3
    assert not any(row["question"][:20] in line for row in body["dataframe_records"] for line in said)


@pytest.mark.slow
def test_smollm2_answers_alike_through_mlflow_and_through_bioquant(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, body, logged = registered(root, *SMOLLM, "quant=none")
    assert any(logged), "nothing was found, so nothing would be compared"
    with served(root, uri) as (address, _):
        found = requests.post(f"{address}/invocations", json=body, timeout=120).json()["predictions"]
    assert entities(found) == logged
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", uri, "--env-manager", "local"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", opened(root).uri)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")  # where it looks for uvicorn
    with serving([*command, "--port", str(port)], port, root) as address:
        reply = requests.post(f"{address}/invocations", json=body, timeout=120)
        refused = requests.post(f"{address}/invocations", json={"dataframe_records": [{"text": " "}]}, timeout=60)
    assert reply.json()["predictions"] == found
    assert refused.status_code == 400
    assert "row 0: field 'text' is empty." in refused.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name one model to serve, as models:/NAME@ALIAS; given: none."),
        (
            ["models:/a@b", "models:/c@d"],
            "name one model to serve, as models:/NAME@ALIAS; given: models:/a@b models:/c@d.",
        ),
        (["models:/a@b", "model=x"], "key 'model' is not known. There are: serve=… and serve.KEY=…, tracking=… and "),
        (
            ["models:/a@b", "serve.port=70000"],
            "serve.port=70000 is not allowed: give 1 to 65535, or 0 for any that is ",
        ),
        (
            ["models:/a@b", "serve.port=0", "--uri", "http://127.0.0.1:9"],
            "tracking store 'http://127.0.0.1:9' cannot be ",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *arguments]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {message}")
    assert printed.count("\n") == 1


def test_a_port_in_use_is_told_before_anything_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "models:/a@b", f"serve.port={port}"]) == 2
    assert capsys.readouterr().err == (
        f"error: serve.host=127.0.0.1 serve.port={port} cannot be listened on (Address already in use): choose another "
        "serve.port, or 0 for any that is free.\n"
    )
