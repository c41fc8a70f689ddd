"""How an experiment opens in MLflow's UI: the tags as they are written, and the pages in a real browser."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from bioquant.tracking import views
from conftest import Command
from tracking_parts import free_port

LONGEST_TAG = 5000
"""Characters of an experiment's tag that MLflow's database takes."""

PATIENCE_MS = 60_000


def test_tags_fit_the_database() -> None:
    assert {
        tag: len(value) for tag, value in views.tags("123456789012345678").items() if len(value) > LONGEST_TAG
    } == {}


@pytest.mark.parametrize("view", views.VIEWS, ids=lambda view: view.key)
def test_a_view_is_what_the_ui_writes(view: views.View) -> None:
    made = json.loads(views.tags("1")[f"mlflow.sharedViewState.{view.key}"])
    state = json.loads(made["state"])
    assert made["name"] == view.name
    assert state["searchFilter"] == view.search
    sections = {section["uuid"] for section in state["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} <= sections
    assert len({chart["uuid"] for chart in state["compareRunCharts"]}) == len(state["compareRunCharts"])


def test_the_description_links_to_every_view() -> None:
    note = views.tags("7")["mlflow.note.content"]
    assert all(f"(#/experiments/7/runs?viewStateShareKey={view.key})" in note for view in views.VIEWS)


class Ui(NamedTuple):
    """What the browser tests look at. url: what `bioquant ui` says to open."""

    url: str
    base: str
    runs: dict[str, str]


@pytest.fixture(scope="module")
def browser() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    return found


@pytest.fixture(scope="module")
def ui(bioquant: Command, tmp_path_factory: pytest.TempPathFactory, browser: str) -> Iterator[Ui]:
    """`bioquant ui` on a sweep of two cells, its recommendation and a registered version."""
    root = tmp_path_factory.mktemp("ui")
    (root / "multirun").mkdir()
    quick = ["limit=2", "measure.latency_examples=1"]  # a metric that no run has gets no column
    done(bioquant("run", "-m", "model=tiny_random", "task=demo_qa,demo_ner", *quick, root=root))
    done(bioquant("recommend", root=root))
    runs = ids(root)
    done(bioquant("register", f"run={runs['demo_qa']}", "--force", root=root))
    port = free_port()
    command = [Path(sys.executable).with_name("bioquant"), "ui", "--port", str(port)]
    env = {**os.environ, "BIOQUANT_ROOT": str(root)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env) as server:
        assert server.stdout is not None
        first = server.stdout.readline().split()
        assert first[0] == "Open", first
        base = f"http://127.0.0.1:{port}"
        answering(base)
        yield Ui(first[1], base, runs)
        server.terminate()


def done(result: subprocess.CompletedProcess[str]) -> None:
    assert result.returncode == 0, result.stderr


def ids(root: Path) -> dict[str, str]:
    """The runs' ids by task or kind."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{root / 'mlruns' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("bioquant")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    return {run.data.tags.get("task", run.data.tags["bioquant.kind"]): run.info.run_id for run in found}


def answering(base: str) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(f"{base}/health"):
                return
        except OSError:
            assert time.monotonic() < deadline, "the server did not come up"
            time.sleep(0.2)


@pytest.fixture(scope="module")
def page(browser: str) -> Iterator[Page]:
    """A tab of a headless browser in which nobody was before, but for the pane that MLflow opens once by itself."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-dev-shm-usage"])
        context = chromium.new_context(viewport={"width": 2000, "height": 1000})
        context.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        context.add_init_script("localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')")
        yield context.new_page()
        chromium.close()


def go(page: Page, url: str) -> None:
    """To a page as if it were the first: within MLflow's only the part after `#` changes."""
    page.goto("about:blank")
    page.goto(url)


SHOWN = """expected => {
    const headings = [...document.querySelectorAll("[role=columnheader][col-id*='`']")];
    const place = one => Number(one.getAttribute("aria-colindex"));
    const ids = headings.sort((one, other) => place(one) - place(other)).map(one => one.getAttribute("col-id"));
    return JSON.stringify(ids) === JSON.stringify(expected);
}"""
"""Whether these are the columns, from left to right."""


def followed(page: Page, link: str) -> Page:
    """The tab that a link of a description opens."""
    with page.context.expect_page() as opened:
        page.get_by_role("link", name=link).click()
    return opened.value


@pytest.mark.slow
def test_the_experiment_opens_with_columns_and_sort(ui: Ui, page: Page) -> None:
    go(page, ui.url)
    expect(page.locator("[role=columnheader][col-id='params.`task`']")).to_be_visible()
    chosen = [f"params.`{name}`" for name in views.CELLS.params] + [f"metrics.`{name}`" for name in views.CELLS.metrics]
    page.wait_for_function(SHOWN, arg=["attributes.`Run Name`", *chosen])
    names = page.locator("[col-id='attributes.`Run Name`'] a")
    expect(names).to_have_text(
        ["tiny_random · none · demo_ner · zero_shot", "tiny_random · none · demo_qa · zero_shot"]
    )
    expect(page.get_by_text(views.CELLS.name)).to_be_visible()


@pytest.mark.slow
def test_the_description_leads_to_charts_and_conclusions(ui: Ui, page: Page) -> None:
    go(page, ui.url)
    conclusions = followed(page, "recommendations and studies")
    expect(conclusions.get_by_role("link", name="recommendation · default")).to_be_visible()
    charts = followed(page, "the same as charts")
    expect(charts.get_by_text(views.OURS)).to_be_visible()
    expect(charts.get_by_text("memory/weights_mib vs. quality")).to_be_visible()


@pytest.mark.slow
def test_parent_and_children_lead_to_each_other(ui: Ui, page: Page) -> None:
    go(page, f"{ui.base}/#/experiments/1/runs/{ui.runs['sweep']}")
    page.get_by_role("link", name="tiny_random · none · demo_qa · zero_shot").click()
    expect(page.get_by_text("2 of 36 test examples")).to_be_visible()
    page.get_by_role("link", name="sweep · tiny_random · none · 2 tasks · zero_shot").click()
    cells = followed(page, "its cells")
    expect(cells.locator("[col-id='attributes.`Run Name`'] a")).to_have_count(2)


@pytest.mark.slow
def test_artifacts_are_seen_in_the_browser(ui: Ui, page: Page) -> None:
    go(page, f"{ui.base}/#/experiments/1/runs/{ui.runs['demo_ner']}/artifacts")
    page.get_by_text("predictions.json", exact=True).click()
    expect(page.get_by_role("columnheader", name="example_id")).to_be_visible()
    page.get_by_text("labels.png", exact=True).click()
    expect(page.locator("canvas, img[src*='labels.png'], img[src^='blob:'], img[src^='data:']").first).to_be_visible()
    go(page, f"{ui.base}/#/experiments/1/runs/{ui.runs['recommendation']}/artifacts")
    page.get_by_text("report.html", exact=True).click()
    expect(page.frame_locator("iframe").get_by_role("heading", name="Which model to run")).to_be_visible()


@pytest.mark.slow
def test_the_model_card_is_rendered(ui: Ui, page: Page) -> None:
    go(page, f"{ui.base}/#/models/bioquant-demo_qa/versions/1")
    expect(page.get_by_role("heading", name="Intended task")).to_be_visible()


@pytest.mark.slow
def test_ui_names_the_page_on_a_server(ui: Ui, bioquant: Command) -> None:
    assert bioquant("ui", MLFLOW_TRACKING_URI=ui.base).stdout == f"Open {ui.url}\n"
