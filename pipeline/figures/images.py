"""Figures made of pictures: reconstructions, prior samples, uncertainty maps."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import style
from pipeline.figures.passes import Array

PER_ROW = 16
GAP = 1  # pixels between tiles


def representatives(labels: Array, count: int) -> Array:
    """Indices of `count` images that take turns over the classes, the first of each class first."""
    turn = np.empty(labels.size, dtype=np.int64)
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        turn[of_class] = np.arange(of_class.size)
    return np.lexsort((labels, turn))[:count]


def colour(image: Array) -> Array:
    """A (C, H, W) image in [0, 1] as (H, W, 3): grey, RGB, or the mean of any other channels."""
    if image.shape[0] == 3:
        return np.clip(image, 0, 1).transpose(1, 2, 0)
    return np.repeat(np.clip(image.mean(axis=0), 0, 1)[:, :, None], 3, axis=2)


def mosaic(images: Array, columns: int) -> Array:
    """Images (n, C, H, W) as white-framed tiles of one picture, row by row, (height, width, 3)."""
    rows = math.ceil(len(images) / columns)
    high, wide = images.shape[2] + GAP, images.shape[3] + GAP
    canvas = np.ones((rows * high - GAP, columns * wide - GAP, 3), dtype=np.float32)
    for index, image in enumerate(images):
        top, left = (index // columns) * high, (index % columns) * wide
        canvas[top : top + high - GAP, left : left + wide - GAP] = colour(image)
    return canvas


def strip_height(strips: int, columns: int, images: Array) -> float:
    """Inches that `strips` rows of `columns` tiles need, labels included."""
    tile: float = (style.WIDTH - 1.5) / columns * images.shape[2] / images.shape[3]
    return strips * min(tile, 1.2)


def show_strip(axes: Axes, images: Array, label: str) -> None:
    """One labelled row of tiles."""
    axes.imshow(mosaic(images, len(images)))
    style.bare(axes)
    axes.set_ylabel(label, rotation=0, ha="right", va="center")


def reconstructions(originals: Array, by_model: dict[str, Array]) -> Figure:
    """Originals over their reconstructions, all arrays (n, C, H, W), at most 16 to a row."""
    starts = range(0, len(originals), PER_ROW)
    rows = {"original": originals, **by_model}
    columns = min(len(originals), PER_ROW)
    height = 0.6 + strip_height(len(starts) * len(rows), columns, originals)
    drawing = style.figure("Originals over their reconstructions (test images)", height)
    grid = drawing.subplots(len(starts) * len(rows), 1, squeeze=False)[:, 0]
    for axes, (start, label) in zip(grid, ((s, r) for s in starts for r in rows), strict=True):
        part = rows[label][start : start + PER_ROW]
        blank = np.ones((columns - len(part), *part.shape[1:]), dtype=part.dtype)
        show_strip(axes, np.concatenate([part, blank]), label)
    return drawing


def prior_samples(by_model: dict[str, Array]) -> Figure:
    """Panels of images (n, C, H, W) decoded from the same draws of the prior."""
    count = len(next(iter(by_model.values())))
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    images = next(iter(by_model.values()))
    panel = style.WIDTH / len(by_model) * rows / columns * images.shape[2] / images.shape[3]
    drawing = style.figure("Images decoded from the prior, z ~ N(0, I)", 0.7 + panel, gap=0.05)
    grid = drawing.subplots(1, len(by_model), squeeze=False)[0]
    for axes, (label, images) in zip(grid, by_model.items(), strict=True):
        axes.imshow(mosaic(images, columns))
        axes.set_title(label)
        style.bare(axes)
    return drawing


def uncertainty(originals: Array, means: Array, variances: Array, decodes: int) -> Figure:
    """Originals, mean decodes and per-pixel variance heat maps, all (n, C, H, W), n <= 16.

    The variance of a colour image is the mean over its channels.
    """
    height = 0.9 + strip_height(3, len(originals), originals)
    drawing = style.figure(
        f"Uncertainty: variance of a pixel over {decodes} stochastic decodes of the same image",
        height,
    )
    top, middle, bottom = drawing.subplots(3, 1)
    show_strip(top, originals, "original")
    show_strip(middle, means, "mean decode")
    heat = _heat_strip(variances.mean(axis=1))
    picture = bottom.imshow(heat, cmap="inferno", vmin=0)
    style.bare(bottom)
    bottom.set_ylabel("variance", rotation=0, ha="right", va="center")
    bar = drawing.colorbar(picture, ax=[top, middle, bottom], shrink=0.8, pad=0.01)
    bar.set_label("variance (squared pixel value, pixels in [0, 1])")
    return drawing


def _heat_strip(maps: Array) -> Array:
    """Maps (n, H, W) side by side; the gaps are NaN, which imshow leaves white."""
    padded = np.pad(maps, ((0, 0), (0, 0), (0, 1)), constant_values=np.nan)
    return np.concatenate(list(padded), axis=1)[:, :-1]
