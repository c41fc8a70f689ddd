"""The documentation is tested: its examples load, its commands compose, its lists are complete."""

import ast
import re
import shlex
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from bioquant import checkpoints, compose, datasets
from bioquant.cli import VERBS, main
from bioquant.config import Domain, ModelConfig, ModelSource, TaskConfig
from bioquant.records import (
    Audit,
    Footprint,
    Latency,
    Percentiles,
    QuantCheck,
    QuantizationReport,
    RunResult,
    Score,
    Span,
)
from bioquant.tasks import kind_of
from bioquant.tracking import metric_values, run_params, run_tags
from bioquant.tracking.content import result_tags
from bioquant.verbs.models import size
from conftest import REPOSITORY
from test_compose import composed
from test_plan import DATASET

DOCS = REPOSITORY / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *REPOSITORY.glob("*.md")])
OWN_TASK = (DOCS / "own_task.md").read_text(encoding="utf-8")
FILE = re.compile(r"^<!-- file: (?P<path>\S+) -->\n```\w*\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
SOURCE = REPOSITORY / "src" / "bioquant"


def span(start: int, end: int, label: str, text: str) -> Span:
    return Span(start=start, end=end, label=label, text=text)


TARGETS = {
    "mine": ["yes", "no"],
    "exam_letters": ["B", "A"],
    "exam_numbers": ["B", "B"],
    "exam_from_one": ["B"],
    "ner_conll": [(span(8, 29, "Drug", "acetyl salicylic acid"),), ()],
    "ner_pubtator": [
        (
            span(0, 7, "Chemical", "Aspirin"),
            span(12, 18, "Disease", "asthma"),
            span(20, 27, "Chemical", "Aspirin"),
            span(40, 46, "Disease", "asthma"),
        )
    ],
    "ner_bioc": [(span(0, 5, "Gene", "BRCA1"), span(32, 36, "Gene", "TP53"))],
    "ner_jsonl": [(span(6, 12, "Disease", "asthma"), span(17, 25, "Disease", "diabetes")), ()],
    "re_tsv": ["treats", "none"],
    "re_documents": ["induces", "none"],
    "re_bioc": ["together"],
    "mlc_string": [("Treatment", "Prevention"), ()],
    "mlc_list": [("Treatment", "Prevention"), ()],
    "mlc_columns": [("Treatment", "Prevention"), ()],
}
"""What each task of own_task.md must read from its sample data."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that own_task.md shows."""
    root = tmp_path_factory.mktemp("own_task")
    for match in FILE.finditer(OWN_TASK):
        path = root / match["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(match["text"], encoding="utf-8")
    return root


def test_every_example_task_has_its_expected_rows(folder: Path) -> None:
    assert {path.stem for path in (folder / "my_conf" / "task").glob("*.yaml")} == TARGETS.keys()
    assert OWN_TASK.count("<!-- file:") == len(list(FILE.finditer(OWN_TASK)))


@pytest.mark.parametrize("name", TARGETS)
def test_an_example_task_reads_its_sample_data(folder: Path, name: str) -> None:
    task: TaskConfig = compose.load_option(folder / "my_conf" / "task" / f"{name}.yaml", TaskConfig)
    found = datasets.load(task, folder / "data")
    assert task.name == name
    assert [row.target for row in found.test] == TARGETS[name]
    assert len(found.pool) == (1 if name == "ner_jsonl" else 0)


def test_the_command_of_own_task_composes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIOQUANT_ROOT", str(folder))
    names: list[str] = []
    compose.hydra_app(
        ["--config-dir", str(folder / "my_conf"), "task=mine", f"data.root={folder / 'data'}", "limit=20"],
        lambda config: names.append(compose.to_run_config(config).task.name),
    )
    assert names == ["mine"]


COMMANDS = sorted(
    {
        line.split("#")[0].strip()
        for page in PAGES
        if page.name != "CONTRIBUTING.md"  # whose recipes are run whole, by test_contributing.py
        for block in re.findall(r"^```bash\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("bioquant ")
    }
)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_one_that_can_be_given(command: str) -> None:
    _, verb, *arguments = shlex.split(command)
    assert verb in {*VERBS, "--help", "--version"}
    if verb not in ("run", "plan") or "--config-dir" in arguments:
        return
    pairs = [argument.split("=", 1) for argument in arguments if not argument.startswith("-")]
    for values in product(*(value.split(",") for _, value in pairs)):
        assert composed(*(f"{key}={value}" for (key, _), value in zip(pairs, values, strict=True)))


def table_rows(page: str) -> dict[str, list[str]]:
    """The table's cells by their first cell, backticks taken off."""
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| `")]
    return {cells[0].strip("| `"): cells[1:] for cells in rows}


@pytest.mark.parametrize("name", compose.names("task"))
def test_the_table_of_tasks_says_what_the_task_says(name: str) -> None:
    task: TaskConfig = compose.options("task", TaskConfig)[name]
    kind, labels, files, metric, licence = table_rows("tasks.md")[name]
    assert kind == task.kind
    assert labels == (str(len(task.labels)) if task.labels else "letters")
    assert files == f"`{task.test.paths[0]}`"
    assert metric == f"`{kind_of(task.kind).headline}`"
    assert licence.rstrip(" |") == task.licence


def test_the_table_of_tasks_is_complete() -> None:
    assert table_rows("tasks.md").keys() == set(compose.names("task"))


@pytest.mark.parametrize("name", compose.names("model"))
def test_the_table_of_models_says_what_the_model_says(name: str) -> None:
    model: ModelConfig = compose.options("model", ModelConfig)[name]
    id_, parameters, context, licence, gated, revision, *counterpart = table_rows("models.md")[name]
    assert (id_, parameters) == (f"`{model.id}`", size(model.num_parameters))
    assert (context, licence) == (f"{model.context_length:,}", model.licence)
    assert gated == ("yes" if model.gated else "no")
    pinned = "commit" if checkpoints.is_pinned(model) else str(model.revision)
    assert revision.rstrip(" |") == (pinned if model.source is ModelSource.hub else "-")
    expected = [f"`{model.general_counterpart}`"] if model.domain is Domain.biomedical else []
    assert [cell.rstrip(" |") for cell in counterpart] == expected


def test_the_table_of_models_is_complete() -> None:
    assert table_rows("models.md").keys() == set(compose.names("model"))


def test_the_printed_plan_is_the_one_of_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    page = (DOCS / "plan.md").read_text(encoding="utf-8")
    [command, *_] = re.findall(r"^bioquant (plan .*)$", page, re.MULTILINE)
    [printed, *_] = re.findall(r"^```text\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert main(shlex.split(command)) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.rstrip() for line in shown][: printed.count("\n")] == [line.rstrip() for line in printed.splitlines()]


PERCENTILES = Percentiles(p50=1.0, p95=1.0, p99=1.0, count=20)
FOOTPRINT = Footprint(
    device="cuda:0",
    weights_mib=1.0,
    load_s=1.0,
    load_peak_mib=1.0,
    peak_allocated_mib=1.0,
    peak_reserved_mib=1.0,
    peak_device_mib=1.0,
    other_processes=False,
    examples_per_s=1.0,
    output_tokens_per_s=1.0,
    prompt_tokens_per_s=1.0,
    joules_per_example=1.0,
    latency=Latency(batch_size=1, ttft_ms=PERCENTILES, tpot_ms=PERCENTILES, example_ms=PERCENTILES),
    latency_batched=Latency(batch_size=8, ttft_ms=PERCENTILES, tpot_ms=PERCENTILES, example_ms=PERCENTILES),
    compile_s=1.0,
    predicted_allocated_mib=1.0,
    predicted_device_mib=1.0,
    batch_rows=1,
    batch_tokens=1,
    device_name="a GPU",
)


def result(task: TaskConfig) -> RunResult:
    """A result with every figure there can be, its scores from the task's own examples, all answered rightly."""
    rows = datasets.load(task, None).test
    kind = kind_of(task.kind)
    scores: list[Score] = kind.score(rows, [row.target for row in rows], task, resamples=10, seed=0)
    report = QuantizationReport(replaced={}, kept={}, bytes_before=1, bytes_after=1, backend="")
    return RunResult(
        scores=tuple(scores),
        headline=scores[0].name,
        num_examples=len(rows),
        invalid_rate=0.0,
        empty_rate=0.0,
        truncated_input_rate=0.0,
        truncated_output_rate=0.0,
        footprint=FOOTPRINT,
        quantization=report,
        input_ids_sha256="",
        trivial={},
        audit=Audit(num_examples=1, num_changed=0, num_flipped=0),
        check=QuantCheck(num_tokens=1, perplexity=2.0, baseline_perplexity=1.5, kl=0.1),
    )


@pytest.mark.parametrize("name", ["demo_qa", "demo_ner", "demo_re", "demo_mlc"])
def test_every_metric_of_a_run_is_explained(name: str) -> None:
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    task: TaskConfig = compose.options("task", TaskConfig)[name]
    logged = {re.sub(r"_ci_(low|high)$", "", key) for key in metric_values(result(task))}
    assert {key for key in logged if f"`{key}`" not in text} == set()


def test_every_param_and_tag_of_a_run_is_explained() -> None:
    from bioquant.plan import plan

    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    config = replace(composed("model=tiny_random"), limit=2)
    tags = run_tags(plan(config, DATASET, ()), Path("x"), "sweep") | result_tags(result(config.task))
    named = {re.sub(r"^version\..*", "version.*", tag) for tag in tags} | run_params(config, "sweep").keys()
    assert {key for key in named if f"`{key}`" not in text} == set()


def test_every_artifact_of_a_run_is_explained() -> None:
    source = (SOURCE / "tracking" / "lifecycle.py").read_text(encoding="utf-8")
    named = set(re.findall(r'"(\w+\.(?:yaml|jsonl?|parquet|png|log))"', source))
    assert {"config.yaml", "predictions.parquet", "run.log"} <= named
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    assert {name for name in named if f"`{name}`" not in text} == set()


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md"])
def test_the_number_of_benchmark_tasks_is_right(page: str) -> None:
    count = len([name for name in compose.names("task") if not name.startswith("demo_")])
    assert f" {count} benchmark tasks" in (REPOSITORY / page).read_text(encoding="utf-8")


def templates() -> list[re.Pattern[str]]:
    """Every string of the source, and every f-string with its values left open, as a pattern."""
    found: set[str] = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts = [part.value if isinstance(part, ast.Constant) else None for part in parts]
            if sum(len(text) for text in texts if isinstance(text, str)) > 11:
                found.add("".join(".*" if text is None else re.escape(str(text)) for text in texts))
    return [re.compile(text, re.DOTALL) for text in sorted(found)]


MESSAGES = re.findall(
    r"^```text\n(?:error: )?(.*?)\n```$", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE
)


@pytest.fixture(scope="module")
def patterns() -> list[re.Pattern[str]]:
    return templates()


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_in_troubleshooting_is_one_that_the_source_writes(
    message: str, patterns: list[re.Pattern[str]]
) -> None:
    assert any(pattern.fullmatch(message) for pattern in patterns)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_index_names_every_page() -> None:
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    pages = [page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md") if page.name != "index.md"]
    assert [page for page in pages if f"({page})" not in text] == []
