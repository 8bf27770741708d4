"""The figures and the report: what they compute, what they refuse, and that bytes repeat."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import Space, parse_space
from pipeline.figures import (
    atlas,
    style,
    trials,
)
from pipeline.figures.inputs import read_inputs
from pipeline.machine import Machine
from pipeline.paths import Paths, write_json, write_text
from pipeline.stages import render
from pipeline.vae.checkpoint import load_model, save_weights
from pipeline.vae.model import build

PARAMETERS: dict[str, Any] = {
    "latent_dim": 3,
    "hidden": {"choices": [[8], [8, 4]]},
    "lr": {"low": 1.0e-4, "high": 1.0e-2, "log": True},
    "optimizer": {"choices": ["adam", "sgd"]},
    "momentum": {"low": 0.8, "high": 0.9, "when": {"optimizer": "sgd"}},
    "restore_best": {"choices": [True, False]},
    "patience": {"choices": [None, 3]},
}
TRIALS = """\
number,state,nelbo_nats,recon_nats,kl_nats,epochs,best_epoch,reason,hidden,lr,optimizer,momentum,restore_best,patience
0,complete,30.0,20.0,10.0,2,2,,[8],0.001,adam,,True,
1,pruned,40.0,31.0,9.0,1,1,,"[8, 4]",0.0001,sgd,0.85,False,3.0
2,failed,,,,0,,the loss is not <finite>,[8],0.01,sgd,0.9,True,3.0
3,complete,29.0,21.0,8.0,2,1,,[8],0.002,adam,,True,
4,complete,9000.0,8999.0,1.0,2,1,,[8],0.002,adam,,False,
"""
CURVE = "epoch,nelbo_nats,recon_nats,kl_nats,train_nelbo_nats,train_recon_nats,train_kl_nats,lr"


def a_space(**changes: Any) -> Space:
    raw = {
        "data": {"name": "digits"},
        "parameters": PARAMETERS,
        "search": {"epochs": 2},
        "render": {"points": 50, "images": 5, "prior_samples": 6, "grid_side": 4},
    }
    return parse_space("tiny", {**raw, **changes}, "tiny.yaml")


def write_sweep(root: Path, space: Space, shape: tuple[int, int, int]) -> Paths:
    """The files of the four earlier stages, with random images and untrained models."""
    paths = Paths(root, space.name)
    random = np.random.default_rng(0)
    paths.prepare.mkdir(parents=True)
    np.save(paths.prepare / "test_images.npy", random.integers(0, 256, (60, *shape), np.uint8))
    np.save(paths.prepare / "test_labels.npy", np.arange(60) % 3)
    (paths.prepare / "samples.png").write_bytes(style.png(style.figure("samples", 1)))
    manifest = {"shape": shape, "classes": ["$a", "<b>", "c" * 40], "sha256": "5a"}
    write_json(paths.prepare / "manifest.json", manifest)
    write_text(paths.search / "trials.csv", TRIALS)
    rows = [f"{n},{e},{40 - e},{30 - e},10,41,31,10,0.001" for n in range(5) for e in (1, 2)]
    write_text(paths.search / "curves.csv", "\n".join([f"number,{CURVE}", *rows]))
    best: dict[str, Any] = {"study": "tiny-1", "number": 3}
    best["trials"] = {"complete": 3, "pruned": 1, "failed": 1}
    if len(space.search.objectives) == 2:
        best["pareto"] = [0, 3]
    write_json(paths.search / "best.json", best)
    write_retrain(paths, space, shape)
    metrics = {"nelbo_nats": 28.5, "recon_nats": 20.25, "kl_nats": 8.25, "bits_per_dim": 0.6421}
    metrics |= {"mse_per_pixel": 0.05, "active_units": 3}
    nested = {"first_epoch": {**metrics, "nelbo_nats": 41.5}, "seeds": {"nelbo_nats_sd": 0.25}}
    baselines = {"mean_image_nelbo_nats": 33.5, "pca_mse_per_pixel": 0.06, "pca_components": 3}
    write_json(paths.evaluate / "metrics.json", {**metrics, **nested, "baselines": baselines})
    return paths


def write_retrain(paths: Paths, space: Space, shape: tuple[int, int, int]) -> None:
    chosen = {"hidden": [8], "lr": 0.002, "optimizer": "adam", "restore_best": True}
    record = {"shape": shape, **space.model.model_dump()}
    record |= space.hyperparameters(chosen).model_dump()
    paths.retrain.mkdir(parents=True)
    write_json(paths.retrain / "config.json", record)
    for seed, name in enumerate(("model", "first_epoch")):
        weights = build(shape, record, seed).state_dict()
        save_weights(paths.retrain / f"{name}.safetensors", weights)
    write_text(
        paths.retrain / "candidates.csv",
        "candidate,number,mean_nelbo_nats,low_nelbo_nats,high_nelbo_nats,difference_nats,"
        "low_difference_nats,high_difference_nats,seed_error_nats,image_error_nats,"
        "search_nelbo_nats,seeds,winner,lr\n"
        "0,3,29.5,29.25,29.75,,,,,,29.0,2,True,0.002\n"
        "1,0,,,,,,,,,30.0,2,False,0.001\n"
        "2,1,29.8,29.5,30.1,0.3,-0.1,0.7,0.14,0.03,30.0,2,False,0.001\n",
    )
    rows = [f"{c},{s},{e},{40 - e},30,10,41,31,10,0.001,3" for c in (0, 1) for s in (0, 1)
            for e in (1, 2, 3)]  # fmt: skip
    history = "\n".join([f"candidate,seed,{CURVE},active_units", *rows])
    write_text(paths.retrain / "history.csv", history)
    winner = {"candidate": 0, "number": 3, "seed": 1, "parameters": chosen}
    write_json(paths.retrain / "winner.json", {**winner, "sentence": "0 & <script>1</script>"})


@pytest.fixture(scope="module", autouse=True)
def coarse() -> Iterator[None]:
    """Small pictures: the tests look at what is drawn, not at how fine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(style._SETTINGS, "savefig.dpi", 40)
        yield


def rendered(paths: Paths) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(paths.render.iterdir())}


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
