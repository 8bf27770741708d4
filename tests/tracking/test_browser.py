"""MLflow's pages on a finished sweep, as a person with a browser uses them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from ledgers import open_ledger
from playwright.sync_api import Browser, Page, expect, sync_playwright
from servers import DEADLINE, answers, wait_for
from surroundings import free_port

from pipeline.commands import ui
from pipeline.paths import Paths
from pipeline.settings.machine import Machine
from pipeline.settings.space import load_space
from pipeline.study.storage.ledger import storage_url
from pipeline.sync.mlflow_runs import Sweep
from pipeline.tracking.mirror import Mirror
from pipeline.tracking.store import connect, store_of
from pipeline.tracking.views import compare_link

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium")
SPACE = """
data: {name: digits, limit: 400}
parameters:
  lr: {low: 3.0e-3, high: 1.0e-2, log: true}
  latent_dim: {choices: [2, 6]}
  hidden: [64]
  batch_size: 16
search: {trials: 5, epochs: 10, parallelism: 1, pruner: none}
retrain: {top: 2, seeds: 2, epochs: 3}
evaluate: {iw_samples: 2, nelbo_samples: 1, probe: false}
render: {projections: [pca], points: 50, images: 2}
"""
TRIAL = re.compile(r"^trial \d{4}$")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's package chromium"),
]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with a finished sweep."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "search_spaces").mkdir()
    (folder / "search_spaces" / "tiny.yaml").write_text(SPACE)
    with start(folder, "run", "tiny") as command:
        assert command.wait() == 0
    with start(folder, "sync", "tiny") as command:  # on a busy machine the run does not wait for it
        assert command.wait() == 0
    return folder


@pytest.fixture(scope="module")
def runs_page(sweep: Path) -> Iterator[str]:
    """The address of the sweep's runs, its first experiment, on the pages of `make ui`."""
    address = f"http://127.0.0.1:{free_port()}"
    with start(sweep, "ui", "--port", address.rsplit(":", 1)[1]) as command:
        try:
            wait_for(lambda: answers(f"{address}/health"))
            yield ui.runs_page(address, "1")
        finally:
            os.killpg(command.pid, signal.SIGKILL)


def start(folder: Path, *argv: str) -> subprocess.Popen[bytes]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_TRACKING")}
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", *argv],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(ROOT), "PIPELINE_WORKERS": "1"},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        expect.set_options(timeout=DEADLINE * 1000)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page without memory: MLflow's pages remember filters and selections."""
    context = browser.new_context(viewport={"width": 1600, "height": 1000})
    context.set_default_timeout(DEADLINE * 1000)
    yield context.new_page()
    context.close()


def follow(page: Page, link: str) -> Page:
    """A link of the experiment's description, which opens a page of its own."""
    with page.expect_popup() as opened:
        page.get_by_role("link", name=link, exact=True).click()
    return opened.value


def test_every_page_is_of_model_training_and_nothing_pops_up(page: Page, runs_page: str) -> None:
    page.goto(runs_page.partition("#")[0])
    page.get_by_role("link", name="tiny", exact=True).click()
    expect(page.get_by_role("link", name="study tiny")).to_be_visible()
    expect(page.get_by_role("heading", name="Runs")).to_be_visible()
    expect(page.get_by_role("link", name="Models")).to_be_visible()  # of model training alone
    page.get_by_role("link", name="study tiny").click()
    expect(page.get_by_role("tab", name="Artifacts")).to_be_visible()
    page.get_by_role("link", name="Model registry").click()
    expect(page.get_by_role("heading", name="Model").first).to_be_visible()
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_one_link_shows_the_trials_in_a_table_and_one_in_charts(page: Page, runs_page: str) -> None:
    page.goto(runs_page)
    page = follow(page, "trials")
    expect(page.get_by_role("link", name=TRIAL)).to_have_count(5)
    for column in ("best_nelbo_nats", "bits_per_dim", "latent_dim", "state"):
        expect(page.get_by_role("columnheader", name=column).first).to_be_visible()
    page = follow(page, "trials in charts")
    expect(page.get_by_text("Parallel Coordinates", exact=True)).to_be_visible()
    plot = page.locator("svg").filter(has_text="log10_lr").filter(has_text="best_nelbo_nats")
    expect(plot.first).to_be_visible()
    expect(page.get_by_text("log10_lr vs. best_nelbo_nats")).to_be_visible()


def test_one_link_shows_means_of_candidates_over_their_seeds(page: Page, runs_page: str) -> None:
    page.goto(runs_page)
    page = follow(page, "candidates")
    expect(page.get_by_text(re.compile(r"^Group: \d+"))).to_have_count(2)
    expect(page.get_by_text("(average)").first).to_be_visible()
    page = follow(page, "candidates in charts")
    expect(page.get_by_text("1 Means over seeds").first).to_be_visible()


def test_a_version_shows_what_it_is_of_its_figures_and_a_drawing(
    page: Page, runs_page: str
) -> None:
    page.goto(f"{runs_page.partition('#')[0]}#/models/tiny/versions/1")
    expect(page.get_by_text("the first version").first).to_be_visible()
    expect(page.get_by_role("link", name="study tiny")).to_be_visible()  # where it comes from
    expect(page.get_by_role("cell", name="test_nelbo_nats")).to_be_visible()
    drawn = page.locator("img[src*='reconstructions.png']")
    expect(drawn).to_have_js_property("complete", True)
    assert drawn.evaluate("image => image.naturalWidth") > 100
    expect(page.get_by_text("Outputs (1)")).to_be_visible()  # of the schema
    page = follow(page, "Metrics, data and lineage")
    expect(page.get_by_role("cell", name="test_nelbo_nats")).to_be_visible()
    expect(page.get_by_role("link", name="study tiny").first).to_be_visible()
    expect(page.get_by_role("button", name=re.compile("^digits ")).first).to_be_visible()
    versions = page.locator("a[href$='#/models/tiny/versions/1']")
    expect(versions.filter(has_text="v1")).to_be_visible()


def test_one_link_shows_two_sweeps_beside_each_other(
    page: Page, runs_page: str, sweep: Path
) -> None:
    paths, machine = Paths(sweep, "tiny"), Machine()
    shown = Sweep(load_space(sweep, "tiny"), paths, open_ledger(storage_url(machine, paths)))
    store = store_of(machine, paths)
    Mirror(*store).sync("other", shown.changes(), shown.views())
    other = connect(store.uri).get_experiment_by_name("other")
    assert other
    page.goto(f"{runs_page.partition('#')[0]}{compare_link(['1', other.experiment_id])}")
    expect(page.get_by_role("columnheader", name="Experiment Name").first).to_be_visible()
    for name in ("tiny", "other"):
        expect(page.get_by_role("link", name=name, exact=True).first).to_be_visible()
    expect(page.get_by_role("link", name=TRIAL)).to_have_count(0)


def test_trials_sort_by_nelbo_and_compare(page: Page, runs_page: str, sweep: Path) -> None:
    page.goto(runs_page)
    page = follow(page, "trials")
    rows = page.get_by_role("link", name=TRIAL)
    expect(rows).to_have_count(5)
    shown = [int(name.split()[1]) for name in rows.all_inner_texts()]
    curves = pd.read_csv(sweep / "runs/tiny/search/curves.csv")
    best = curves.groupby("number").nelbo_nats.min()
    assert shown == list(best.sort_values().index)

    for box in (1, 2, 3):  # the first one selects all
        page.get_by_role("checkbox").nth(box).check()
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_text("Comparing 3 Runs from 1 Experiment")).to_be_visible()
    expect(page.get_by_text("Parallel Coordinates Plot")).to_be_visible()
    plot = page.locator("svg").filter(has_text="nelbo_nats").filter(has_text="lr")
    expect(plot.first).to_be_visible()


def test_the_report_opens_among_the_artifacts(page: Page, runs_page: str, sweep: Path) -> None:
    page.goto(runs_page)
    page.get_by_role("link", name="study tiny").click()
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("report.html").first.click()
    report = page.frame_locator("iframe")
    expect(report.get_by_role("heading").first).to_contain_text("tiny")
