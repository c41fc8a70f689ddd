"""The report: complete, self-contained, escaped, and the same each time."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bioquant.compare import Compared, compare
from bioquant.config import PolicyConfig
from bioquant.evidence import gather
from bioquant.recommend import recommend
from bioquant.report import Sources, page, write
from generated import METRICS, Cell, answered

POLICY = PolicyConfig(name="test", max_quality_loss=0.01)
TARGETS = ["yes", "no"] * 300
SCRIPT = "<script>alert('x')</script>"


def cells() -> list[Cell]:
    """Two models at two precisions over two tasks, with what would break out of a page or a table in their names."""
    made: list[Cell] = []
    for task in ("demo", f"a|b {SCRIPT}"):
        for model, number in (("small", 500), (f"large $x_1$ {SCRIPT}", 550)):
            for quant, lost in (("none", 0), ("nf4", 30)):
                answers = TARGETS[: number - lost] + ["maybe"] * (600 - number + lost)
                metrics = {**METRICS, "memory/peak_device_mib": 2000.0 * (0.3 if lost else 1), "trivial/majority": 0.9}
                made.append(
                    Cell(targets=TARGETS, answers=answers, task=task, model=model, quant=quant, metrics=metrics)
                )
    return made


def compared() -> Compared:
    return compare(gather(answered(cell) for cell in cells()), POLICY, resamples=300)


def sources(found: Compared, *, with_texts: bool = True) -> Sources:
    prompts = {f"e{place}": (f"Prompt {place} {SCRIPT}", "out") for place in range(600)}
    texts = {one.candidate.run_id: prompts for one in found.comparisons} if with_texts else {}
    return Sources(texts=texts, environment={"gpu": "NVIDIA H100", "python": "3.11"}, command="bioquant recommend x")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, found = tmp_path_factory.mktemp("report"), compared()
    write(path, recommend(found, POLICY), found, sources(found))
    return path


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


class Elements(HTMLParser):
    """Tags, what they point to, ids, and whether every one is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in ("meta", "br", "link", "img", "input", "hr"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing(html: str) -> None:
    found = Elements(html)
    assert found.open == []
    assert not {"script", "link", "img", "iframe", "object", "form"} & set(found.tags)
    assert all(link.startswith("#") for link in found.links)
    assert not re.findall(r"url\((?!#)|@import", html)
    assert "<script" not in html


def test_every_figure_has_ids_of_its_own_and_the_pages_ink(html: str) -> None:
    found = Elements(html)
    assert found.tags.count("svg") == 6
    assert len(set(found.ids)) == len(found.ids)
    assert "currentColor" in html
    assert "#010203" not in html
    assert html.count('role="img" aria-label="') == 6


@pytest.mark.parametrize(
    "heading",
    [
        "In short",
        "What was asked for",
        "One model for all tasks",
        "demo",
        "Retention",
        "The study&#39;s claims on these runs|The study's claims on these runs",
        "Every comparison",
        "Footprint on NVIDIA H100",
        "Evidence",
    ],
)
def test_every_section_is_there_in_both_forms(folder: Path, html: str, heading: str) -> None:
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    names = heading.split("|")
    assert any(f"<h2>{name}</h2>" in html for name in names)
    assert f"## {names[-1]}\n" in markdown


def test_the_answer_comes_first_and_says_why(html: str) -> None:
    """Both models lose 5 points at nf4, so each stays at full precision, and the larger is the better one."""
    first = html.split('<div class="answer">')[1].split("</div>")[0]
    assert "For all 2 tasks together, run large $x_1$" in first
    assert "Why: of the 2 that meet the policy it scores highest; none as good needs less memory." in first
    assert "it loses 5.0 points of accuracy" in html
    assert "is not shown to beat an answer that reads no text" not in html.split("<h2>What was asked for")[1]


def test_flips_are_shown_with_their_texts_or_only_counted(html: str, tmp_path: Path) -> None:
    assert "30 lost, 0 gained of 600 examples" in html
    assert "Prompt 520 &lt;script&gt;" in html
    found = compared()
    write(tmp_path, recommend(found, POLICY), found, sources(found, with_texts=False))
    bare = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "30 lost, 0 gained of 600 examples" in bare
    assert "Prompt 520" not in bare
    assert "right: <code>" not in bare


def test_markdown_tables_stay_tables(folder: Path) -> None:
    lines = (folder / "report.md").read_text(encoding="utf-8").splitlines()
    assert "<script" not in "\n".join(lines)
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in lines]
    for place, line in enumerate(lines):
        if line.startswith("| --- |") or (set(line) <= set("| -") and line.startswith("|")):
            assert widths[place - 1] == widths[place]
            assert lines[place + 1].startswith("|")


def test_the_record_is_json_that_names_runs(folder: Path) -> None:
    record = json.loads((folder / "recommendation.json").read_text(encoding="utf-8"))
    assert record["policy"]["max_quality_loss"] == 0.01
    [_, demo] = sorted(record["tasks"], key=lambda choice: choice["task"])
    assert demo["task"] == "demo"
    assert demo["chosen"]["run"]["run_id"] in record["run_ids"]
    assert len(record["run_ids"]) == 8


def test_the_same_runs_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    found = compared()
    write(tmp_path, recommend(found, POLICY), found, sources(found))
    for name in ("report.html", "report.md", "recommendation.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_a_report_can_say_that_nothing_meets_the_policy(tmp_path: Path) -> None:
    policy = replace(POLICY, gpu_memory_gib=0.1)
    found = compared()
    write(tmp_path, recommend(found, policy), found, sources(found))
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<b>No choice</b>: nothing meets the policy; the nearest is large $x_1$ &lt;script&gt;" in html


def test_cells_of_a_cpu_are_called_so(tmp_path: Path) -> None:
    found = compare(gather(answered(replace(cell, machine="a CPU")) for cell in cells()), POLICY, resamples=300)
    write(tmp_path, recommend(found, POLICY), found, sources(found))
    assert "All runs were on a CPU" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_sentence_reads_with_and_without_a_reason() -> None:
    assert str(page.Sentence(answer="Run a.", why="it is best")) == "Run a. Why: it is best."
    assert str(page.Sentence(answer="Nothing fits.")) == "Nothing fits."
