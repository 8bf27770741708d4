"""What every model must beat: the mean image and the entropy of grey pixels, from exact sums."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Split = tuple[np.ndarray, np.ndarray]  # images (N, C, H, W) uint8, labels (N,) int64
CHUNK = 2**22  # values; bounds the memory that many images take


@dataclass(frozen=True)
class PixelSums:
    """Exact integer sums over a split, from which all reference figures follow."""

    count: int
    values: np.ndarray  # (C, H, W): sum of the values 0..255 over the images
    squares: np.ndarray  # (C, H, W): sum of their squares
    histogram: np.ndarray  # (256,): how often each value occurs in all images together


def at_once(images: np.ndarray) -> int:
    """How many of them (N, C, H, W) are worked on together."""
    return max(1, CHUNK // math.prod(images.shape[1:]))


def pixel_sums(images: np.ndarray) -> PixelSums:
    """The sums over images, uint8 (N, C, H, W), chunk by chunk."""
    values = np.zeros(images.shape[1:], np.int64)
    squares = np.zeros(images.shape[1:], np.int64)
    histogram = np.zeros(256, np.int64)
    step = at_once(images)
    for start in range(0, len(images), step):
        chunk = images[start : start + step]
        values += chunk.sum(axis=0, dtype=np.int64)
        squares += np.square(chunk, dtype=np.uint16).sum(axis=0, dtype=np.int64)
        histogram += np.bincount(chunk.ravel(), minlength=256)
    return PixelSums(len(images), values, squares, histogram)


def described(splits: Mapping[str, Split], classes: int) -> dict[str, Any]:
    """What manifest.json states of the images and labels of train, validation and test."""
    sums = {name: pixel_sums(images) for name, (images, _) in splits.items()}
    train, others = sums["train"], {name: sums[name] for name in ("validation", "test")}
    return {
        "shape": list(splits["train"][0].shape[1:]),
        "counts": {name: each.count for name, each in sums.items()},
        "class_counts": {
            name: np.bincount(labels, minlength=classes).tolist()
            for name, (_, labels) in splits.items()
        },
        "levels": int(np.count_nonzero(sum(each.histogram for each in sums.values()))),
        "bernoulli": {
            "mean_image_nelbo_nats": {
                name: mean_image_nelbo_nats(train, other) for name, other in others.items()
            },
            "entropy_floor_nats": {
                name: entropy_floor_nats(other) for name, other in others.items()
            },
        },
        "mean_image_mse_per_pixel": {
            name: mean_image_mse_per_pixel(train, other) for name, other in others.items()
        },
    }


def mean_image_nelbo_nats(train: PixelSums, other: PixelSums) -> float:
    """Nats an image that a Bernoulli decoder pays which always answers the mean training image.

    Σ_i −x̄_i log p_i − (1−x̄_i) log(1−p_i), x̄ the mean image of `other`: the cost is linear in x.
    p is the mean image of `train`, kept half a grey level of one image (1 / 510 N) away from 0
    and 1, the smallest change that could have gone unseen, so that the cost is finite.
    """
    margin = 0.5 / (255 * train.count)
    p = np.clip(train.values / (255 * train.count), margin, 1 - margin)
    x = other.values / (255 * other.count)
    return float(-(x * np.log(p) + (1 - x) * np.log1p(-p)).sum())


def entropy_floor_nats(sums: PixelSums) -> float:
    """Σ_i H(x_i) nats an image: no Bernoulli decoder goes below it on grey pixels."""
    x = np.arange(1, 255) / 255  # black and white have entropy 0
    entropy = -(x * np.log(x) + (1 - x) * np.log1p(-x))
    return float(sums.histogram[1:255] @ entropy / sums.count)


def mean_image_mse_per_pixel(train: PixelSums, other: PixelSums) -> float:
    """Mean squared error a pixel, on the scale 0..1, of the mean training image as the answer."""
    p = train.values / train.count
    errors = other.squares / other.count - 2 * p * other.values / other.count + p**2
    return float(errors.mean() / 255**2)
