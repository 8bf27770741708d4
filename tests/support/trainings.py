"""Small trainings for the tests: real digits and tiny models."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from pipeline.settings.own_family import kind_of
from pipeline.vae.setting import Setting, read_setting
from pipeline.vae.training import Training

TRAIN, VALIDATION = 230, 70  # batches of 64 leave a last one of 38
TINY = {"latent_dim": 3, "hidden": [32], "filters": 4, "dense_units": 8, "batch_size": 64}

torch.set_num_threads(1)  # as in a worker; tiny models wait for a second thread


@cache
def digits() -> tuple[Tensor, Tensor]:
    """Training and validation images, uint8 (230, 1, 8, 8) and (70, 1, 8, 8)."""
    values = load_digits().images[: TRAIN + VALIDATION] * 255 / 16
    images = torch.from_numpy(values.round().astype("uint8"))[:, None]
    return images[:TRAIN], images[TRAIN:]


def config(**changes: Any) -> dict[str, Any]:
    """Every hyperparameter, and likelihood and sigma."""
    model = {"likelihood": "bernoulli", "sigma": None}
    model |= {name: changes.pop(name) for name in model if name in changes}
    kind = kind_of([str(changes.get("family"))], {})
    return {**kind(**{**TINY, **changes}).model_dump(), **model}


def setting_of(**changes: Any) -> Setting:
    """What a training is told."""
    return read_setting(config(**changes))


def training(*, seed: int = 0, epochs: int = 4, **changes: Any) -> Training:
    """A new training of `setting_of(**changes)` on digits."""
    return Training(*digits(), setting_of(**changes), seed, epochs)


def run(training: Training) -> Training:
    """The training after its last epoch."""
    while not training.finished:
        training.run_epoch()
    return training


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether two state dicts are equal to the last bit."""
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
