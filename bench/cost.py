"""How well the formula of an epoch's cost tells what epochs cost, over all families.

    python -m bench.cost [--settings 40]

Trains three short epochs of settings that are drawn at random (fixed seed), on random images of
three shapes, on one core, and prints the quantiles of formula / core-seconds, each over its median:
what is wrong in the relative cost of two settings.
"""

from __future__ import annotations

import argparse
import random
import time
from typing import Any

import numpy as np
import torch

from pipeline.settings.hyperparameters import Hyperparameters
from pipeline.vae.cost import epoch_cost
from pipeline.vae.families.layers import Shape
from pipeline.vae.process import prepare_process
from pipeline.vae.setting import read_setting
from pipeline.vae.training import Training

IMAGES = 3000
SHAPES: list[Shape] = [(1, 28, 28), (3, 32, 32), (1, 8, 8)]
CHOICES: dict[str, list[Any]] = {
    "batch_size": [32, 64, 128, 256, 512],
    "latent_dim": [2, 8, 16, 64],
    "optimizer": ["adam", "adamax", "rmsprop", "sgd"],
    "averaging": [None, 9.0],
    "family": ["mlp", "mlp", "conv_stride", "conv_pool"],
    "hidden": [[64], [128], [256], [512], [256, 128], [512, 256], [512, 256, 256], [1024, 512]],
    "skip": [False, True],
    "activation": ["relu", "leaky_relu", "silu"],
    "filters": [4, 8, 16, 32, 48],
    "dense_units": [16, 64, 128],
}
LEVELS = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def core_seconds(chosen: dict[str, Any], shape: Shape) -> tuple[float, int]:
    """The faster of two epochs after a first one, and what the formula says."""
    record = {
        **Hyperparameters.defaults(),
        "likelihood": "bernoulli",
        "sigma": None,
        "lr": 1e-5,
        **chosen,
    }
    setting = read_setting(record)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (IMAGES, *shape), generator=generator, dtype=torch.uint8)
    training = Training(images, images[:300], setting, 0, 3, "cpu")
    times = []
    for _ in range(3):
        before = time.process_time()
        training.run_epoch()
        times.append(time.process_time() - before)
    return min(times[1:]), epoch_cost(setting, shape, IMAGES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", type=int, default=40)
    options = parser.parse_args()
    prepare_process("cpu")
    torch.set_num_threads(1)
    draw = random.Random(0)
    found: dict[str, list[float]] = {"mlp": [], "conv_stride": [], "conv_pool": []}
    for _ in range(options.settings):
        chosen = {name: draw.choice(choices) for name, choices in CHOICES.items()}
        seconds, cost = core_seconds(chosen, draw.choice(SHAPES))
        found[chosen["family"]].append(cost / seconds)
    middle = np.median([ratio for ratios in found.values() for ratio in ratios])
    print(f"{'family':12} {'settings':>8}", *(f"{level:6.0%}" for level in LEVELS))
    everyone = {**found, "all": [ratio for ratios in found.values() for ratio in ratios]}
    for family, ratios in everyone.items():
        quantiles = np.quantile(np.array(ratios) / middle, LEVELS)
        print(f"{family:12} {len(ratios):8}", *(f"{value:6.2f}" for value in quantiles))


if __name__ == "__main__":
    main()
