"""Real pictures that need no network: crops of scikit-learn's sample photographs."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np


@cache
def photographs() -> list[np.ndarray]:
    """Two of them, uint8 (427, 640, 3)."""
    from sklearn.datasets import load_sample_images

    images: Any = load_sample_images().images
    return [np.asarray(image, np.uint8) for image in images]


def crops(count: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Random parts of them, uint8 (count, 3, height, width)."""
    draw, (height, width) = np.random.default_rng(seed), size
    found = np.empty((count, 3, height, width), np.uint8)
    for crop in found:
        photograph = photographs()[int(draw.integers(2))]
        top = int(draw.integers(photograph.shape[0] - height + 1))
        left = int(draw.integers(photograph.shape[1] - width + 1))
        crop[:] = photograph[top : top + height, left : left + width].transpose(2, 0, 1)
    return found
