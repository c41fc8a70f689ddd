"""The documentation's site: built strictly, complete, and nothing in it is fetched from elsewhere."""

import os
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import get_type_hints

import pytest

from bioquant.cli import VERBS
from bioquant.config import RunConfig
from conftest import REPOSITORY

FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
"""Elements whose address a browser opens by itself. A link (`a`) waits for a click."""


class Addresses(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get(FETCHED.get(tag, ""))
        if address and dict(attrs).get("rel") != "canonical":
            self.fetched.append(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    mkdocs = Path(sys.executable).with_name("mkdocs")
    done = subprocess.run(
        [mkdocs, "build", "--strict", "--site-dir", folder],
        cwd=REPOSITORY,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_no_page_fetches_anything_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        parser = Addresses()
        parser.feed(page.read_text(encoding="utf-8"))
        assert parser.fetched
        assert [address for address in parser.fetched if re.match(r"(?:\w+:)?//", address)] == [], page


def test_no_style_sheet_fetches_anything_from_elsewhere(site: Path) -> None:
    sheets = list(site.rglob("*.css"))
    assert sheets
    for sheet in sheets:
        text = sheet.read_text(encoding="utf-8")
        assert re.findall(r"""url\(["']?(?:https?:)?//|@import""", text) == [], sheet


def keys(schema: type, prefix: str = "") -> list[str]:
    """Every key a run's configuration has, but the options' names."""
    types = get_type_hints(schema)
    found: list[str] = []
    for one in fields(schema):
        kind = types[one.name]
        found += keys(kind, f"{prefix}{one.name}.") if is_dataclass(kind) else [prefix + one.name]
    return [key for key in found if not key.endswith(".name")]


def test_every_key_and_every_verb_is_in_the_reference(site: Path) -> None:
    text = (site / "reference" / "configuration.html").read_text(encoding="utf-8")
    assert {"limit", "quant.requires.devices", "engine.batch"} <= set(keys(RunConfig))
    assert [key for key in keys(RunConfig) if f"<code>{key}</code>" not in text] == []
    text = (site / "reference" / "cli.html").read_text(encoding="utf-8")
    assert [verb for verb in VERBS if f"bioquant {verb}" not in text] == []
    assert "--flips" in text
