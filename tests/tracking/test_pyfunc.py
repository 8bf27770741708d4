"""The winner as an MLflow model: it loads by its alias, holds no pickle, and says the same."""

from __future__ import annotations

import json
import os
import pickletools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from records import START, Store, study
from studies import SPACE

from pipeline.errors import UserError
from pipeline.results.record import write_record
from pipeline.settings.space import parse_space
from pipeline.sync.champion import judge
from pipeline.tracking.load import load_model
from pipeline.tracking.model import VaeModel, as_images, save_model
from pipeline.tracking.registry import Score, Winner, register
from pipeline.vae import measure
from pipeline.vae.checkpoint import save_weights
from pipeline.vae.model import VAE, build
from pipeline.vae.setting import read_architecture

SHAPE = (1, 6, 5)
RECORD = {
    "shape": list(SHAPE),
    "family": "mlp",
    "hidden": [16],
    "skip": False,
    "activation": "relu",
    "init": "torch",
    "latent_dim": 3,
    "likelihood": "binarized",
    "sigma": None,
}


@pytest.fixture(scope="module")
def vae() -> VAE:
    return build(SHAPE, read_architecture(RECORD), seed=1).eval()


@pytest.fixture(scope="module")
def folder(vae: VAE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The MLflow model of an untrained VAE."""
    source = tmp_path_factory.mktemp("retrain")
    save_weights(source / "model.safetensors", vae.state_dict())
    (source / "config.json").write_text(json.dumps(RECORD))
    save_model(source / "mlflow", source / "model.safetensors", source / "config.json")
    return source / "mlflow"


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (7, *SHAPE), dtype=np.uint8)


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    from mlflow import pyfunc

    return pyfunc.load_model(str(folder))


def test_the_folder_holds_weights_record_and_code_but_no_pickle(folder: Path) -> None:
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*")}
    assert {"MLmodel", "data/vae/model.safetensors", "data/vae/config.json"} <= files.keys()
    assert "code/pipeline/vae/model.py" in files
    assert not [name for name in files if "__pycache__" in name]
    for file in files.values():
        if file.is_file():
            with pytest.raises((ValueError, IndexError, UnicodeDecodeError)):
                list(pickletools.genops(file.read_bytes()))
    requirements = files["requirements.txt"].read_text().split()
    assert any(line.startswith("torch==") for line in requirements)
    assert not [line for line in requirements if "+" in line]


def test_a_folder_is_written_once(folder: Path) -> None:
    before = (folder / "MLmodel").stat().st_mtime_ns
    save_model(folder, folder.parent / "model.safetensors", folder.parent / "config.json")
    assert (folder / "MLmodel").stat().st_mtime_ns == before


def test_predictions_are_those_of_the_vae(model: Any, vae: VAE, images: np.ndarray) -> None:
    tensor = torch.from_numpy(images)
    nelbo = model.predict(images, params={"mode": "nelbo", "seed": 4, "samples": 2})
    np.testing.assert_array_equal(nelbo, measure.elbo(vae, tensor, 4, 2).nelbo_nats.numpy())
    encoded = model.predict(images, params={"mode": "encode"})
    np.testing.assert_array_equal(encoded, measure.posterior_means(vae, tensor, 0).numpy())
    squared, _ = measure.reconstruction_errors(vae, tensor, 0)
    error = np.square(model.predict(images) - images / np.float32(255)).mean((1, 2, 3))
    np.testing.assert_allclose(error, squared.numpy(), rtol=1e-5)


def test_generation_depends_on_the_seed_alone(model: Any) -> None:
    first, again, other = (
        model.predict(None, params={"mode": "generate", "n": 4, "seed": seed}) for seed in (1, 1, 2)
    )
    assert first.shape == (4, *SHAPE)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    assert 0 <= first.min() <= first.max() <= 1


def test_every_form_of_the_same_images_is_the_same(images: np.ndarray) -> None:
    flat = images.reshape(len(images), -1)
    last = np.moveaxis(images, 1, -1)
    forms = [images.tolist(), images[:, 0], last, last / 255, flat,
             flat.tolist(), pd.DataFrame(flat), pd.DataFrame(flat / 255), images / 255.0,
             (images / np.float32(255)), flat.astype(np.int64)]  # fmt: skip
    for form in forms:
        np.testing.assert_array_equal(as_images(form, SHAPE).numpy(), images)


def test_channels_may_come_last_but_are_never_guessed() -> None:
    shape = (3, 8, 6)
    images = np.random.default_rng(0).integers(0, 256, (4, *shape), dtype=np.uint8)
    last = np.moveaxis(images, 1, -1)
    for form in (images, last, last.tolist(), last / 255):
        np.testing.assert_array_equal(as_images(form, shape).numpy(), images)
    for form in (images.reshape(4, -1), images.reshape(4, 8, 3, 6), images.reshape(4, 6, 8, 3)):
        with pytest.raises(UserError, match=r"\(n, 3, 8, 6\) or \(n, 8, 6, 3\), but got"):
            as_images(form, shape)
    cube = np.arange(27, dtype=np.uint8).reshape(1, 3, 3, 3)  # either way round: C, H, W
    np.testing.assert_array_equal(as_images(cube, (3, 3, 3)).numpy(), cube)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((2, 31)), r"\(n, 6, 5\) or \(n, 30\), but got \(2, 31\)"),
        (np.zeros((2, 5, 6)), r"but got \(2, 5, 6\): reshape or transpose"),
        (np.zeros((2, 1, 5, 6)), "images must be"),
        (np.zeros((0, 30)), "images must be"),
        (np.zeros(30), "images must be"),
        (None, "images must be"),
        ([[1, 2], [3]], "images must have one size"),
        (np.full((1, 30), 255.0), "divide floats by 255"),
        (np.full((1, 30), -1), "integers from 0 to 255"),
        (np.full((1, 30), 256), "integers from 0 to 255"),
        (np.full((1, 30), np.nan), "floats from 0 to 1"),
        (np.full((1, 30), "a"), "pixels must be"),
        (np.full((1, 30), True), "pixels must be integers or floats, but got bool"),
    ],
)
def test_unusable_images_are_named(given: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        as_images(given, SHAPE)


def test_a_colour_model_scores_either_order_alike() -> None:
    """Through MLflow's own wrapper, as a person calls it."""
    architecture = read_architecture(RECORD | {"likelihood": "bernoulli"})
    vae = build((3, 8, 6), architecture, seed=1).eval()
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 8, 6), dtype=np.uint8)
    first, last = (VaeModel(vae).predict(each, {"mode": "nelbo"})
                   for each in (images, np.moveaxis(images, 1, -1)))  # fmt: skip
    np.testing.assert_array_equal(first, last)


def test_a_sweeps_model_loads_without_mlflow(vae: VAE, images: np.ndarray, tmp_path: Path) -> None:
    retrain = tmp_path / "runs" / "tiny" / "retrain"
    retrain.mkdir(parents=True)
    with pytest.raises(UserError, match=r"retrain is missing: run .* retrain tiny"):
        load_model("tiny", tmp_path)
    save_weights(retrain / "model.safetensors", vae.state_dict())
    (retrain / "config.json").write_text(json.dumps(RECORD))
    inputs = {"prepare": "p", "search": "s"}
    write_record(retrain, "retrain", parse_space("tiny", SPACE, "tiny.yaml"), inputs)
    np.save(tmp_path / "images.npy", images)
    code = (
        "import sys, numpy\n"
        "from pipeline.tracking.load import load_model\n"
        "model, images = load_model('tiny'), numpy.load('images.npy')\n"
        "mu = model.encode(images)\n"
        "assert (model.decode(mu) == model.reconstruct(images)).all()\n"
        "assert model.sample(3, seed=1).shape == (3, *model.shape)\n"
        "numpy.save('nelbo.npy', model.nelbo(images, seed=4, samples=2))\n"
        "assert 'mlflow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    expected = measure.elbo(vae, torch.from_numpy(images), 4, 2).nelbo_nats.numpy()
    np.testing.assert_array_equal(np.load(tmp_path / "nelbo.npy"), expected)
    with pytest.raises(UserError, match=r"latents must be \(n, 3\), but got \(2, 4\)"):
        load_model("tiny", tmp_path).decode(np.zeros((2, 4)))
    save_weights(
        retrain / "model.safetensors", build(SHAPE, read_architecture(RECORD), seed=2).state_dict()
    )
    with pytest.raises(UserError, match=r"retrain/model.safetensors is not what retrain wrote"):
        load_model("tiny", tmp_path)


def test_an_unknown_mode_and_no_images_are_named(model: Any, images: np.ndarray) -> None:
    with pytest.raises(UserError, match="generate, but got 'decode'"):
        model.predict(images, params={"mode": "decode"})
    with pytest.raises(UserError, match="`n >= 1` must hold"):
        model.predict(None, params={"mode": "generate", "n": 0})


@pytest.mark.slow
def test_the_champion_loads_elsewhere_without_this_checkout(
    store: Store, folder: Path, images: np.ndarray, model: Any, tmp_path: Path
) -> None:
    """Another process, which finds the package in the model alone."""
    run = study(status="FINISHED", end_ms=START, artifacts={"model": folder})
    run_id = store.mirror().sync(store.name, [run]).run_ids["fashion-1a2b"]
    score = Score(1.0, 0.1, 3, "d", "binarized")
    register(store.uri, store.name, Winner(run_id, "model", "a", score), judge)
    np.save(tmp_path / "images.npy", images)
    threads = str(torch.get_num_threads())  # sums of more threads have other last bits
    code = (
        "import mlflow, numpy, sys\n"
        f"model = mlflow.pyfunc.load_model('models:/{store.name}@champion')\n"
        "numpy.save('out.npy', model.predict(numpy.load('images.npy')))\n"
        "print(sys.modules['pipeline'].__file__)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "MLFLOW_TRACKING_URI": store.uri, "OMP_NUM_THREADS": threads},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.endswith("/code/pipeline/__init__.py\n")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), model.predict(images))
