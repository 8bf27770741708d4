"""The five published systems in a reduced form: from real images to every figure, in seconds.

All read 7 000 images of Fashion-MNIST from the pickled dict that one of them is about: it has a
small test split, and MNIST is in no package of the system.
"""

from __future__ import annotations

import csv
import gzip
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from test_pipeline import ROOT, checkout, pipeline

from pipeline.data.readers import read_idx

FASHION = Path("/usr/share/datasets/fashion-mnist")
LIGHT = {
    "evaluate": {"iw_samples": 2, "nelbo_samples": 1},
    "render": {"points": 150, "images": 4, "prior_samples": 8, "uncertainty_decodes": 4},
}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FASHION.exists(), reason="needs Debian's package dataset-fashion-mnist"),
]


def reduced(name: str, data: Path, limit: int, epochs: int) -> dict[str, Any]:
    """The committed search space with few images in small batches and coarse figures."""
    space = yaml.safe_load((ROOT / "search_spaces" / f"{name}.yaml").read_text())
    space["data"] |= {"name": "pickle", "path": str(data), "limit": limit}
    space["parameters"] |= {"batch_size": 16}
    space["retrain"] |= {"epochs": epochs, "seeds": 1}
    for section, values in LIGHT.items():
        space[section] = space.get(section, {}) | values
    return space


def finish(folder: Path, name: str, space: dict[str, Any]) -> Path:
    """The outputs of all five stages."""
    done = pipeline(checkout(folder, {name: yaml.safe_dump(space)}), "run", name)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / name


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def metrics(runs: Path) -> dict[str, Any]:
    return json.loads((runs / "evaluate/metrics.json").read_text())


def figures(runs: Path) -> set[str]:
    return {path.stem for path in (runs / "render").glob("*.png")}


@pytest.fixture(scope="module")
def pickled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """7 000 real images in the form {"data": uint8 (7000, 28, 28), "labels": (7000,)}."""
    images, labels = (
        read_idx(gzip.decompress((FASHION / name).read_bytes()), name)[:7000]
        for name in ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")
    )
    path = tmp_path_factory.mktemp("pickle") / "images.pkl"
    path.write_bytes(pickle.dumps({"data": images, "labels": labels.astype(np.int64)}))
    return path


def test_conv_pool_random_draws_from_the_full_grid(tmp_path: Path, pickled: Path) -> None:
    space = reduced("conv_pool_random", pickled, 300, 1)
    space["parameters"]["batch_size"] = {"choices": [64, 128]}
    space["search"] |= {"epochs": 1}
    folder = checkout(tmp_path, {"conv_pool_random": yaml.safe_dump(space)})
    for stage in ("prepare", "search"):
        done = pipeline(folder, stage, "conv_pool_random")
        assert done.returncode == 0, done.stderr
    runs = folder / "runs/conv_pool_random"
    manifest = json.loads((runs / "prepare/manifest.json").read_text())
    assert manifest["counts"] == {"train": 240, "validation": 60, "test": 1400}
    trials = rows(runs / "search/trials.csv")
    assert len(trials) == 5
    for name, domain in space["parameters"].items():
        if isinstance(domain, dict):
            drawn = {yaml.safe_load(trial[name]) for trial in trials}
            assert drawn <= set(domain["choices"])


def test_conv_pool_random_falls_back_when_no_trial_succeeds(tmp_path: Path, pickled: Path) -> None:
    space = reduced("conv_pool_random", pickled, 1200, 5)
    space["parameters"] |= {"lr": {"choices": [9.0, 10.0]}}  # every trial diverges or collapses
    space["search"] |= {"epochs": 1, "trials": 2}
    space["search"]["fallback"]["batch_size"] = 16
    runs = finish(tmp_path, "conv_pool_random", space)
    assert {trial["state"] for trial in rows(runs / "search/trials.csv")} == {"failed"}
    winner = json.loads((runs / "retrain/winner.json").read_text())
    assert winner["parameters"].items() >= space["search"]["fallback"].items()
    assert {"mse_per_pixel", "mae_per_pixel"} <= metrics(runs).keys()


def test_mlp_warmup_shows_the_first_epoch_beside_the_best(tmp_path: Path, pickled: Path) -> None:
    space = reduced("mlp_warmup", pickled, 2000, 4)
    space["parameters"]["kl_warmup_epochs"] = 2
    space["evaluate"]["anomaly"] = ["fashion-mnist"]  # in place of MNIST, which is not here
    runs = finish(tmp_path, "mlp_warmup", space)
    measured = metrics(runs)
    assert measured["nelbo_nats"] < measured["first_epoch"]["nelbo_nats"]
    assert {"latent_scatter", "interpolation", "traversal", "reconstructions"} <= figures(runs)
    history = rows(runs / "retrain/history.csv")
    assert [int(row["epoch"]) for row in history] == [1, 2, 3, 4]
    assert all(row["mu_std"] and row["log_var_mean"] for row in history)
    winner = json.loads((runs / "retrain/winner.json").read_text())
    assert winner["best_epoch"] >= 2  # epochs of the warm-up are flattered and do not count


def test_conv_stride_plateau_draws_three_projections_and_curves(
    tmp_path: Path, pickled: Path
) -> None:
    space = reduced("conv_stride_plateau", pickled, 1000, 4)
    runs = finish(tmp_path, "conv_stride_plateau", space)
    winner = json.loads((runs / "retrain/winner.json").read_text())
    assert winner["weights"] == 69_076 + 65_089
    assert {"latent_scatter", "training_curves", "manifold", "prior_samples"} <= figures(runs)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_conv_latent2_subset_draws_uncertainty(
    tmp_path: Path, pickled: Path, likelihood: str
) -> None:
    space = reduced("conv_latent2_subset", pickled, 1000, 4)
    space["model"] = {"likelihood": likelihood}
    runs = finish(tmp_path, "conv_latent2_subset", space)
    assert {"uncertainty", "samples", "latent_scatter", "manifold"} <= figures(runs)


def test_mlp_dense_has_two_latent_dimensions_and_beats_the_mean_image(
    tmp_path: Path, pickled: Path
) -> None:
    runs = finish(tmp_path, "mlp_dense", reduced("mlp_dense", pickled, 2000, 3))
    measured = metrics(runs)
    assert measured["nelbo_nats"] < measured["baselines"]["mean_image_nelbo_nats"]
    assert measured["baselines"]["pca_components"] == 2


def test_the_five_validate_as_committed() -> None:
    for name in ("conv_pool_random", "mlp_warmup", "conv_stride_plateau",
                 "conv_latent2_subset", "mlp_dense"):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", "check", name], cwd=ROOT, capture_output=True
        )
        assert done.returncode == 0, done.stderr
