"""An exported study as Optuna's own dashboard and plots show it."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
from playwright.sync_api import Page, expect, sync_playwright
from servers import DEADLINE, answers, wait_for
from studies import trial
from surroundings import free_port

from pipeline.figures.importance import Importance, importance
from pipeline.settings.space import Space, parse_space
from pipeline.study.export import export
from pipeline.study.storage.rows import Trial

CHROMIUM = shutil.which("chromium")
DASHBOARD = shutil.which(
    "optuna-dashboard", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
)
STUDY = "tiny-0123456789ab"
TRIALS = 24
NELBO = "nelbo_nats"
HIDDEN = [[64], [32, 16]]


@pytest.fixture(scope="module")
def space() -> Space:
    raw = {
        "data": {"name": "digits"},
        "parameters": {
            "lr": {"low": 1e-4, "high": 1e-1, "log": True},
            "latent_dim": {"low": 2, "high": 32},
            "hidden": {"choices": HIDDEN},
        },
    }
    return parse_space("tiny", raw, "tiny.yaml")


def trials() -> list[Trial]:
    """The learning rate decides nearly all."""
    draw, found = np.random.default_rng(0), []
    for number in range(TRIALS):
        chosen = {
            "lr": float(10 ** draw.uniform(-4, -1)),
            "latent_dim": int(draw.integers(2, 33)),
            "hidden": HIDDEN[int(draw.integers(2))],
        }
        value = 25 + 10 * (math.log10(chosen["lr"]) + 2.5) ** 2 + 0.01 * chosen["latent_dim"]
        curve = [{"epoch": epoch, "nelbo_nats": value + 3 / epoch} for epoch in (1, 2, 3)]
        result = {"nelbo_nats": curve[-1]["nelbo_nats"], "best_epoch": 3}
        state = "paused" if number % 6 == 5 else "complete"
        fields = {"parameters": chosen, "curve": curve, "result": result, "state": state}
        found.append(trial(number, **fields))
    return found


@pytest.fixture(scope="module")
def url(space: Space, tmp_path_factory: pytest.TempPathFactory) -> str:
    url = f"sqlite:///{tmp_path_factory.mktemp('optuna')}/optuna.db"
    export(space, STUDY, trials(), url)
    return url


def test_optunas_importance_and_ours_agree_in_what_matters_most(space: Space, url: str) -> None:
    """Not in the shares: they are other measures (docs/python.md)."""
    study = optuna.load_study(study_name=STUDY, storage=url)
    ended = [each for each in study.trials if each.state.name == "COMPLETE"]
    numbers = [each.user_attrs["number"] for each in ended]
    assert numbers == [number for number in range(TRIALS) if number % 6 != 5]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = optuna.importance.get_param_importances(study)
    same = [trials()[number] for number in numbers]
    settings = [dict(each.parameters or {}) for each in same]
    table = pd.DataFrame(settings).assign(number=numbers)
    table["hidden"] = [HIDDEN.index(each["hidden"]) for each in settings]  # places of the choices
    parts = pd.DataFrame([(each.number, 0, 3, (each.result or {})[NELBO]) for each in same],
                         columns=["trial", "since", "until", NELBO])  # fmt: skip
    ours = importance(table, space.searched, parts)
    assert isinstance(ours, Importance)
    assert next(iter(theirs)) == ours.shares.index[0] == "lr"
    assert theirs["lr"] > 0.5
    assert ours.shares["lr"] > 0.5


def test_optunas_plots_draw_it(url: str) -> None:
    study = optuna.load_study(study_name=STUDY, storage=url)
    from optuna.visualization import matplotlib as plots

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental
        assert len(plots.plot_intermediate_values(study).lines) == TRIALS
        history = plots.plot_optimization_history(study)
        assert len(history.collections[0].get_offsets()) == TRIALS - TRIALS // 6
        plots.plot_param_importances(study)
        plots.plot_parallel_coordinate(study)
        plots.plot_slice(study)


@pytest.fixture
def page(url: str) -> Iterator[Page]:
    """The dashboard's first page."""
    assert DASHBOARD is not None
    port = free_port()
    with subprocess.Popen(
        [DASHBOARD, url, "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as server:
        try:
            wait_for(lambda: answers(f"http://127.0.0.1:{port}/dashboard/"))
            with sync_playwright() as playwright:
                options = {"executable_path": CHROMIUM, "args": ["--no-sandbox"]}
                browser = playwright.chromium.launch(**options)
                expect.set_options(timeout=DEADLINE * 1000)
                page = browser.new_page(viewport={"width": 1600, "height": 1400})
                page.set_default_timeout(DEADLINE * 1000)
                page.goto(f"http://127.0.0.1:{port}/dashboard/")
                yield page
                browser.close()
        finally:
            os.killpg(server.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(
    CHROMIUM is None or DASHBOARD is None, reason="needs chromium and optuna-dashboard"
)
def test_the_dashboard_shows_history_curves_and_importance(page: Page) -> None:
    page.get_by_text(STUDY).first.click()
    for title in ("History", "Intermediate values", "Hyperparameter Importance"):
        expect(page.get_by_role("heading", name=title, exact=True)).to_be_visible()
    plot = page.locator("svg")
    expect(plot.filter(has_text=f"trial #{TRIALS - 1}").first).to_be_visible()  # a curve
    expect(plot.filter(has_text="latent_dim").filter(has_text="lr").first).to_be_visible()
    expect(page.get_by_text("[32, 16]").first).to_be_visible()  # a choice of the best trial
