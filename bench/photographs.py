"""What the family for photographs comes to on real ones, and what an epoch costs.

    python -m bench.photographs [--size 64] [--epochs 6]

Trains `residual` with `discretized_logistic` on crops of scikit-learn's two sample photographs, on
one core. Held-out crops are of the photographs' right side, of which no training crop has a pixel.
Printed are NELBO and bits per dimension of these after each epoch, those of predicting the mean
training image, and core-seconds.
"""

from __future__ import annotations

import argparse
import math
import time
from typing import Any

import numpy as np
import torch

from pipeline.settings.hyperparameters import Hyperparameters
from pipeline.vae.measure import mean_image_nelbo
from pipeline.vae.process import prepare_process
from pipeline.vae.setting import read_setting
from pipeline.vae.training import VALIDATION_SEED, Training

TRAIN, HELD_OUT = 1500, 300
LEFT = 440  # columns of 640
SETTING: dict[str, Any] = {
    "family": "residual",
    "filters": 16,
    "blocks": 1,
    "latent_dim": 64,
    "batch_size": 32,
    "lr": 1e-3,
    "likelihood": "discretized_logistic",
    "sigma": None,
}


def crops(photographs: list[np.ndarray], count: int, size: int, seed: int) -> torch.Tensor:
    """Random parts, uint8 (count, 3, size, size)."""
    draw = np.random.default_rng(seed)
    found = np.empty((count, 3, size, size), np.uint8)
    for crop in found:
        photograph = photographs[int(draw.integers(len(photographs)))]
        top, left = (int(draw.integers(side - size + 1)) for side in photograph.shape[:2])
        crop[:] = photograph[top : top + size, left : left + size].transpose(2, 0, 1)
    return torch.from_numpy(found)


def main() -> None:
    from sklearn.datasets import load_sample_images

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=6)
    options = parser.parse_args()
    prepare_process("cpu")
    torch.set_num_threads(1)
    whole = [np.asarray(image, np.uint8) for image in load_sample_images().images]
    train = crops([image[:, :LEFT] for image in whole], TRAIN, options.size, 0)
    held_out = crops([image[:, LEFT:] for image in whole], HELD_OUT, options.size, 1)
    bits = 3 * options.size**2 * math.log(2)

    setting = read_setting({**Hyperparameters.defaults(), **SETTING})
    training = Training(train, held_out, setting, 0, options.epochs)
    mean = mean_image_nelbo(training.vae, train, held_out, VALIDATION_SEED)
    print(f"mean image  {mean:10.1f} nats  {mean / bits:6.3f} bits/dim", flush=True)
    while not training.finished:
        before = time.process_time()
        record = training.run_epoch()
        spent = time.process_time() - before
        nelbo = record["nelbo_nats"]
        print(f"epoch {record['epoch']:4}  {nelbo:10.1f} nats  {nelbo / bits:6.3f} bits/dim "
              f" KL {record['kl_nats']:7.1f}  {spent:7.1f} core-seconds", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
