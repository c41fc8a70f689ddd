"""`bioquant register` as a user meets it: what is printed, and every mistake in its arguments."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from bioquant.cli import main
from registered import cell, project

SCORED = ("task=demo_qa", "prompt=one_shot", "engine.scoring=loglikelihood", "quant=none")


@pytest.fixture(scope="module")
def run_id(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A finished baseline, in the project that the commands are given in."""
    with pytest.MonkeyPatch.context() as patch:
        yield cell(project(tmp_path_factory, patch), *SCORED)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["rn=abc"],
            "key 'rn' is not known; did you mean 'run'? There are: run=…, recommendation=…, task=…, registry=… and "
            "registry.KEY=…, policy=… and policy.KEY=…, tracking=… and tracking.KEY=…, data=… and data.KEY=….",
        ),
        (["run"], "'run' cannot be read: write key=value."),
        (["run="], "'run=' cannot be read: write key=value."),
        (["run=a", "recommendation=b"], "run= and recommendation= name two things to register: leave one out."),
        (["run=a", "task=b"], "task= chooses among a recommendation's tasks; a run has one: leave it out."),
        (
            ["recommendation=a", "policy=gpu_24gb"],
            "policy=gpu_24gb is not allowed with recommendation=: that has its policy. Make another with bioquant "
            "recommend.",
        ),
        (["run=a", "registry.choice=al"], "registry.choice 'al' is not known. Choose from: overall, task."),
        (["run=a", "policy=gpu_24"], "policy 'gpu_24' is not known; did you mean 'gpu_24gb'? Choose from: "),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["register", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"error: {message}")
    assert printed.err.count("\n") == 1


@pytest.mark.slow
def test_a_run_is_registered_and_said_how_to_use(run_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["register", f"run={run_id}", "registry.aliases=[ward]"]
    assert main(given) == 0
    printed = capsys.readouterr()
    assert printed.out == (
        "bioquant-demo_qa version 1 (new)\n  tiny_random · none · demo_qa · one_shot\n  models:/bioquant-demo_qa@ward\n"
    )
    assert "Serve: bioquant serve models:/bioquant-demo_qa@ward" in printed.err
    assert main([*given, "--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)
    assert (found["version"], found["is_new"], found["uri"]) == ("1", False, "models:/bioquant-demo_qa@ward")


@pytest.mark.slow
def test_with_nothing_named_the_latest_recommendation_is(
    run_id: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_id
    assert main(["register"]) == 2
    assert capsys.readouterr().err == (
        "error: say what to register: recommendation=ID or run=ID. There is no recommendation yet: bioquant recommend "
        "makes one.\n"
    )
    assert main(["recommend", "--output", str(tmp_path)]) == 0
    made = capsys.readouterr().err.split("logged as run ")[1].split()[0]
    assert main(["register"]) == 2
    assert capsys.readouterr().err == (
        "error: say what to register: recommendation=ID or run=ID. The latest: bioquant register "
        f"recommendation={made} (recommendation · default)\n"
    )
    assert main(["register", f"recommendation={made}"]) == 0
    assert capsys.readouterr().out.endswith("models:/bioquant-demo_qa@recommended\n")


def test_a_server_that_is_away_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["register", "run=a", "--uri", "http://127.0.0.1:9"]) == 2
    assert capsys.readouterr().err == (
        "error: tracking store 'http://127.0.0.1:9' cannot be used: no server answers there. Start a server (bioquant "
        "ui), or set tracking.uri or MLFLOW_TRACKING_URI.\n"
    )
