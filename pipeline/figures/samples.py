"""The picture of prepare: one training image of each class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

MAX_SAMPLES = 20  # classes shown


def draw_samples(
    path: Path, images: np.ndarray, labels: np.ndarray, classes: list[str], seed: int
) -> None:
    """Writes a picture of one image of each class, drawn by the seed.

    Images are uint8 (N, C, H, W), labels (N,) numbers of `classes`.
    """
    random = np.random.Generator(np.random.PCG64(seed))
    present = np.unique(labels)[:MAX_SAMPLES]
    columns = min(5, len(present))
    rows = -(-len(present) // columns)
    figure = Figure(figsize=(1.5 * columns, 1.75 * rows), dpi=120, layout="constrained")
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.set_axis_off()
    for axes, label in zip(figure.axes, present, strict=False):
        image = images[random.choice(np.flatnonzero(labels == label))]
        _show(axes, image)
        axes.set_title(_short(classes[label]), fontsize=10, parse_math=False)
    figure.savefig(path, metadata={"Software": None})


def _show(axes: Any, image: np.ndarray) -> None:
    """Draws an image (C, H, W): three channels as RGB, else the first as grey."""
    if len(image) == 3:
        axes.imshow(image.transpose(1, 2, 0), interpolation="nearest")
    else:
        axes.imshow(image[0], cmap="gray", vmin=0, vmax=255, interpolation="nearest")


def _short(name: str) -> str:
    return name if len(name) <= 16 else name[:15] + "…"
