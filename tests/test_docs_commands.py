"""Every command block of README and docs that is marked `<!-- run -->` runs, in order, page by page."""

import re
from pathlib import Path

import pytest

from conftest import REPOSITORY
from docs_parts import Block, blocks, follow, run

PAGES = [
    page
    for page in sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
    if any(block.what == "run" for block in blocks(page))
]
TUTORIAL = REPOSITORY / "docs" / "tutorial.md"


def test_the_pages_with_commands_are_found() -> None:
    assert TUTORIAL in PAGES


@pytest.mark.parametrize(
    "page", sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]), ids=lambda page: page.name
)
def test_every_marker_has_its_block(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(re.findall(r"^<!-- (?:file:|run)", text, re.MULTILINE)) == len(list(blocks(page)))


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page != TUTORIAL], ids=lambda page: page.name)
def test_the_commands_of_a_page_run(page: Path, tmp_path: Path) -> None:
    assert all(follow(page, tmp_path))


def test_a_block_that_fails_is_told_with_what_it_printed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"exit code 2 of[\s\S]*verb 'fly' is not known"):
        run(Block("run", "", "bioquant fly\n").script, tmp_path)


def test_overrides_are_added_to_runs_alone() -> None:
    script = Block("run", "limit=2", "bioquant run task=a\nbioquant compare\n").script
    assert script.endswith("bioquant run task=a limit=2\nbioquant compare\n")
