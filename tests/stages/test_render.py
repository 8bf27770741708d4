"""The figures and the report: what they compute, what they refuse, and that bytes repeat."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from drawn import PARAMETERS, TRIALS, a_space, write_sweep

from pipeline.figures import advice, atlas, reading, report, search, style, trials
from pipeline.figures.inputs import read_inputs
from pipeline.files import write_text
from pipeline.paths import Paths
from pipeline.settings.machine import Machine
from pipeline.stages import render
from pipeline.vae.checkpoint import load_model


@pytest.fixture(scope="module", autouse=True)
def coarse() -> Iterator[None]:
    """Small pictures: the tests look at what is drawn, not at how fine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(style._SETTINGS, "savefig.dpi", 40)
        # These files are made up, so that nothing follows from anything.
        patch.setattr(render, "audit_outputs", lambda *_: SimpleNamespace(findings=[]))
        yield


def rendered(paths: Paths) -> dict[str, bytes]:
    names = sorted({path.name for path in paths.render.iterdir()} - {"record.json"})
    return {name: (paths.render / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, coarse: None) -> Paths:
    """A rendered sweep of grey images with three latent dimensions."""
    space = a_space()
    paths = write_sweep(tmp_path_factory.mktemp("sweep"), space, (1, 8, 8))
    render.run(space, Machine(), paths)
    return paths


def test_two_runs_write_the_same_bytes(sweep: Paths) -> None:
    first = rendered(sweep)
    render.run(a_space(), Machine(), sweep)
    assert rendered(sweep) == first


def test_the_page_holds_all_pictures_and_loads_nothing(sweep: Paths) -> None:
    files = rendered(sweep)
    page = files.pop("report.html").decode()
    assert {"latent_scatter.png", "uncertainty.png", "training_curves.png"} <= files.keys()
    assert page.count("<img ") == page.count('src="data:image/png;base64,') == len(files)
    assert not re.search(r"<script|<link|https?://", page)
    assert str(sweep.root) not in page


def test_the_report_says_the_figures_and_escapes_every_text(sweep: Paths) -> None:
    page = (sweep.render / "report.html").read_text(encoding="utf-8")
    for text in ("28.50", "reconstruction 20.25 + KL 8.25", "pseudo-BPD", "33.50", "+0.50"):
        assert text in page
    assert "29.25 … 29.75" in page
    assert "python -m pipeline run tiny" in page
    assert "0 &amp; &lt;script&gt;1&lt;/script&gt;" in page
    assert "the loss is not &lt;finite&gt;" in page
    assert "Importance needs at least 8 finished trials, but there are 4" in page
    hyperparameters = page.split("winning hyperparameters")[1].split("</table>")[0]
    assert "optimizer" in hyperparameters
    assert "momentum" not in hyperparameters, "adam has none"


def test_colour_images_of_any_shape_and_two_objectives(tmp_path: Path) -> None:
    space = a_space(
        parameters={**PARAMETERS, "latent_dim": 2},
        model={"likelihood": "laplace"},
        search={"objectives": ["kl_nats", "recon_nats"], "pruner": "none"},
        render={"points": 50, "projections": ["pca"], "images": 20, "grid_side": 3},
    )
    paths = write_sweep(tmp_path, space, (3, 10, 6))
    render.run(space, Machine(), paths)
    assert {"pareto.png", "manifold.png", "latent_scatter.png"} <= rendered(paths).keys()
    assert "The Pareto front" in (paths.render / "report.html").read_text(encoding="utf-8")


def test_one_latent_dimension_is_drawn_as_a_line_and_binarized_images_are_black_and_white(
    tmp_path: Path,
) -> None:
    parameters = {**PARAMETERS, "latent_dim": 1}
    space = a_space(parameters=parameters, model={"likelihood": "binarized"})
    paths = write_sweep(tmp_path, space, (1, 8, 8))
    inputs = read_inputs(paths, space.searched)
    vae = load_model(paths.retrain / "model.safetensors", paths.retrain / "config.json")
    gallery = atlas.make_gallery(space.render, inputs, vae, vae)
    assert set(np.unique(gallery.images)) == {0, 1}
    assert all(plate.content for plate in atlas.latent_plates(space.render, inputs, gallery))


def test_a_study_without_a_finished_trial_draws_nothing(sweep: Paths) -> None:
    space = a_space()
    inputs = read_inputs(sweep, space.searched)
    failed = inputs.trials[inputs.trials["state"] == "failed"]
    plates = atlas.search_plates(space, replace(inputs, trials=failed), "too few")
    assert [plate.content for plate in plates] == [
        "No trial has finished: there is nothing to draw."
    ]


def test_cells_become_numbers_and_missing_hyperparameters_nan(tmp_path: Path) -> None:
    write_text(tmp_path / "trials.csv", TRIALS)
    table = trials.read_trials(tmp_path / "trials.csv", a_space().searched)
    assert table["hidden"].tolist() == [0, 1, 0, 0, 0]
    assert table["restore_best"].tolist() == [0, 1, 0, 0, 1]
    assert table["patience"].tolist() == [0, 1, 1, 0, 0]
    np.testing.assert_array_equal(table["momentum"], [np.nan, 0.85, 0.9, np.nan, np.nan])
    assert trials.finished(table)["number"].tolist() == [0, 1, 3, 4]


def test_every_figure_says_how_to_read_it(sweep: Paths) -> None:
    page = (sweep.render / "report.html").read_text(encoding="utf-8")
    guide = " ".join((Path(__file__).parents[2] / "docs" / "report.md").read_text().split())
    for name in rendered(sweep):
        if name.endswith(".png"):
            how = reading.READING[name.removesuffix(".png")]
            assert f"<b>How to read it:</b> {html.escape(how)}" in page
    for name, how in reading.READING.items():
        assert f"(`{name}.png`)" in guide
        assert how in guide


def test_the_report_says_what_was_found_of_its_record(sweep: Paths) -> None:
    space = a_space()
    inputs = read_inputs(sweep, space.searched)
    page = report.build(space, inputs, {}, [], record=["Every digest & sum holds."])
    assert "<li>Every digest &amp; sum holds.</li>" in page


def test_parallel_coordinates_show_pruned_trials_too(sweep: Paths) -> None:
    space = a_space()
    table = read_inputs(sweep, space.searched).trials
    drawn = search.parallel(table, space.searched, 3).axes[0].collections
    by_label = {str(each.get_label()): len(each.get_segments()) for each in drawn}
    assert sum(by_label.values()) == 4
    assert by_label["pruned"] == 1


def test_a_run_of_which_nothing_stood_out_is_seen_through(sweep: Paths) -> None:
    """10 of 12 trials pruned, the centre the best, its last epoch too, 8 of 32 units active."""
    space = a_space(parameters={**PARAMETERS, "latent_dim": 32}, retrain={"epochs": 3})
    inputs = read_inputs(sweep, space.searched)
    row = inputs.trials.iloc[[0]]
    table = pd.concat([row] * 12, ignore_index=True)
    table = table.assign(number=range(12), state=["complete", *["pruned"] * 10, "complete"])
    seen = replace(
        inputs,
        trials=table,
        best={**inputs.best, "number": 0},
        winner={**inputs.winner, "number": 0, "best_epoch": 3},
        metrics={**inputs.metrics, "active_units": 8},
    )
    said = "\n".join(advice.advise(space, seen, "too few", sd=5.0, sources=["given"] * 12))
    for words in (
        "best epoch is 3 of 3",
        "8 of 32 latent units are active",
        "The winner is trial 0, the centre of the space",
        "10 of 12 trials were pruned",
    ):
        assert words in said
