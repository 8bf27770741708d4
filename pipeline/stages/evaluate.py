"""Stage evaluate: the winner on the test images, the only stage that reads them to measure.

Reads prepare/ and retrain/; writes evaluate/metrics.json and, of it, headline.json, the few figures
by which DVC compares experiments.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import UserError
from pipeline.files import read_array, read_json, write_json
from pipeline.paths import Paths
from pipeline.results.keys import HEADLINE
from pipeline.results.record import open_inputs, read_record, recorded
from pipeline.settings.machine import Machine
from pipeline.settings.own_files import SOURCES
from pipeline.settings.space import Space
from pipeline.work.cards import granted

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.vae.model import VAE

TEST_SEED = 1
PROBE_IMAGES = 10_000
EPOCHS = ("first_epoch", "last_epoch")  # measured beside the best


def run(space: Space, machine: Machine, paths: Paths) -> None:
    """Writes metrics.json and headline.json."""
    inputs = open_inputs("evaluate", space, paths)
    metrics = measured(space, machine, paths)
    headline = {key: metrics[key] for key in HEADLINE if key in metrics}
    with recorded("evaluate", space, paths, inputs) as folder:
        write_json(folder / paths.metrics.name, metrics)
        write_json(folder / paths.headline.name, headline)


def measured(space: Space, machine: Machine, paths: Paths) -> dict[str, Any]:
    """Best, first-epoch, last-epoch and all seeds' weights, and the baselines beside them."""
    from threadpoolctl import threadpool_limits

    # The order of a sum is part of an answer, also where scikit-learn forms it.
    with threadpool_limits(1):
        return _measured(space, machine, paths)


def _measured(space: Space, machine: Machine, paths: Paths) -> dict[str, Any]:
    from pipeline.data.prepared import load_images
    from pipeline.vae.checkpoint import load_model
    from pipeline.vae.process import arithmetic, prepare_process, resolve_device

    device = resolve_device(granted(machine.device, until=machine.until))
    prepare_process(device)
    manifest = read_json(paths.manifest)
    test = load_images(paths.prepare, "test", device)
    weights = [paths.retrain / f"{name}.safetensors" for name in ("model", *EPOCHS)]
    made = read_record(paths, "retrain").outputs
    seeds = sorted((paths.retrain / each for each in made if "/seed-" in each), key=_seed_number)
    record = paths.config
    models = {path: load_model(path, record, device) for path in [*weights, *seeds]}
    best = models[weights[0]]
    floor = manifest["bernoulli"]["entropy_floor_nats"]["test"]
    if space.model.likelihood != "bernoulli":
        floor = None  # the floor of grey pixels is of this likelihood alone
    options = space.evaluate
    figures = _figures(models, test, options.nelbo_samples, floor)
    metrics: dict[str, Any] = {**figures[weights[0]], "nelbo_samples": options.nelbo_samples}
    if options.iw_samples:
        metrics |= _importance_weighted(best, test, options.iw_samples)
    if options.probe and len(manifest["classes"]) > 1 and _can_probe(paths):
        metrics["probe_accuracy"] = _probe(best, paths)
    if anomalies := _anomalies(best, space, machine, paths, test):
        metrics["anomaly_auroc"] = anomalies
    metrics |= {path.stem: figures[path] for path in weights[1:]}
    metrics["seeds"] = _over_seeds([figures[path]["nelbo_nats"] for path in seeds])
    metrics["baselines"] = _baselines(best, paths, device)
    if options.metrics:
        metrics["own_metrics"] = _own(best, test, space, paths)
    metrics["test_images"] = len(test)
    metrics["arithmetic"] = ", ".join(f"{k} {v}" for k, v in arithmetic(device).items())
    return metrics


def measure(vae: VAE, images: Tensor, samples: int, floor: float | None) -> dict[str, float]:
    """The figures of one model; nelbo_nats is the sum of recon_nats and kl_nats."""
    from pipeline.vae.measure import elbo, reconstruction_errors

    parts = elbo(vae, images, TEST_SEED, samples)
    summary = parts.summary()
    squared, absolute = reconstruction_errors(vae, images, TEST_SEED)
    if floor is not None:
        summary["excess_nats"] = summary["nelbo_nats"] - floor
    pixels = math.prod(images.shape[1:])
    return {
        **summary,
        "bits_per_dim": summary["nelbo_nats"] / (pixels * math.log(2)),
        "mse_per_pixel": float(squared.mean()),
        "mae_per_pixel": float(absolute.mean()),
        "active_units": parts.active_units,
    }


def _figures(
    models: dict[Path, VAE], images: Tensor, samples: int, floor: float | None
) -> dict[Path, dict[str, float]]:
    """The figures of each file of weights; the best epoch is often the last, and a seed's too."""
    known: dict[bytes, dict[str, float]] = {}
    for path, vae in models.items():
        content = path.read_bytes()
        known[content] = known.get(content) or measure(vae, images, samples, floor)
    return {path: known[path.read_bytes()] for path in models}


def _importance_weighted(vae: VAE, images: Tensor, samples: int) -> dict[str, float]:
    from pipeline.vae.measure import iw_nll

    return {
        "iw_nll_nats": float(iw_nll(vae, images, TEST_SEED, samples).mean()),
        "iw_samples": samples,
    }


def _over_seeds(values: list[float]) -> dict[str, float]:
    """The test NELBO of the winning setting over its fresh seeds."""
    mean = sum(values) / len(values)
    spread: dict[str, float] = {"count": len(values), "nelbo_nats_mean": mean}
    if len(values) > 1:
        variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
        spread["nelbo_nats_sd"] = math.sqrt(variance)
    return spread


def _baselines(vae: VAE, paths: Paths, device: str) -> dict[str, float]:
    """What costs nothing: the train-mean image, and PCA with as many components as latents."""
    from sklearn.decomposition import PCA

    from pipeline.data.prepared import load_images
    from pipeline.vae.measure import mean_image_nelbo

    train = load_images(paths.prepare, "train", device)
    test = load_images(paths.prepare, "test", device)
    flat = train.flatten(1).cpu().numpy().astype(np.float32) / 255
    flat_test = test.flatten(1).cpu().numpy().astype(np.float32) / 255
    pca = PCA(min(vae.latent_dim, *flat.shape), svd_solver="covariance_eigh").fit(flat)
    restored = pca.inverse_transform(pca.transform(flat_test))
    return {
        "mean_image_nelbo_nats": mean_image_nelbo(vae, train, test, TEST_SEED),
        "mean_image_mse_per_pixel": float(((flat_test - flat.mean(0)) ** 2).mean()),
        "pca_mse_per_pixel": float(((flat_test - restored) ** 2).mean()),
        "pca_components": int(pca.n_components_),
    }


def _can_probe(paths: Paths) -> bool:
    """Whether the training images of the probe are of more classes than one."""
    from pipeline.data.prepared import load_labels

    return len(load_labels(paths.prepare, "train")[:PROBE_IMAGES].unique()) > 1


def _probe(vae: VAE, paths: Paths) -> float:
    """Test accuracy of a logistic regression on the posterior means."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from pipeline.data.prepared import load_images, load_labels
    from pipeline.vae.measure import posterior_means

    device = next(vae.parameters()).device

    def encoded(split: str, count: int | None) -> tuple[Any, Any]:
        images = load_images(paths.prepare, split, device)[:count]
        labels = load_labels(paths.prepare, split)[:count]
        return posterior_means(vae, images, TEST_SEED).cpu().numpy(), labels.numpy()

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    probe.fit(*encoded("train", PROBE_IMAGES))
    return float(probe.score(*encoded("test", None)))


def _own(vae: VAE, test: Tensor, space: Space, paths: Paths) -> dict[str, Any]:
    """The figures of one's own metrics. Raises UserError with the fault of one."""
    from pipeline.data.prepared import load_labels
    from pipeline.vae.own_metrics import made, own_figures

    tested = made(vae, test, load_labels(paths.prepare, "test"), TEST_SEED)
    try:
        return own_figures(space.evaluate.metrics or [], space.section("evaluate")[SOURCES], tested)
    except UserError as error:
        raise UserError(f"evaluate.metrics: {error}") from None


def _anomalies(
    vae: VAE, space: Space, machine: Machine, paths: Paths, test: Tensor
) -> dict[str, float]:
    """How well the per-image NELBO tells test images from foreign ones, as area under the ROC.

    Foreign are the test images of other sets of the same shape and of a class held out. ½ is
    chance; below it the foreign images look more likely than the model's own.
    """
    import torch
    from sklearn.metrics import roc_auc_score

    from pipeline.data import sources
    from pipeline.vae.measure import elbo

    foreign: dict[str, np.ndarray] = {}
    for other in space.evaluate.anomaly:
        images = sources.load_known(other, machine, paths).test_images
        assert images is not None  # the known sets have test images of their own
        if images.shape[1:] != test.shape[1:]:
            raise UserError(
                f"evaluate.anomaly: {other} has images of shape {images.shape[1:]}, but the model"
                f" takes {tuple(test.shape[1:])}: name a set of that shape"
            )
        foreign[other] = images
    if paths.held_out.exists():
        foreign["hold_out"] = read_array(paths.held_out)
    if not foreign:
        return {}
    own = elbo(vae, test, TEST_SEED).nelbo_nats.cpu().numpy()
    found: dict[str, float] = {}
    for name, images in foreign.items():
        others = torch.from_numpy(images.copy()).to(test.device)
        scores = elbo(vae, others, TEST_SEED).nelbo_nats.cpu().numpy()
        truth = np.r_[np.zeros(len(own)), np.ones(len(scores))]
        found[name] = float(roc_auc_score(truth, np.r_[own, scores]))
    return found


def _seed_number(path: Any) -> int:
    return int(path.stem.removeprefix("seed-"))
