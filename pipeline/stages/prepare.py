"""Stage prepare: verified images, split once, with the figures that every model must beat.

Writes {train,validation,test}_{images,labels}.npy, manifest.json and samples.png.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import config, sources
from pipeline.errors import UserError
from pipeline.machine import Machine
from pipeline.paths import Paths, atomic_folder, write_json
from pipeline.readers import RawData, sha256_of
from pipeline.seeds import digest

SPLITS = ("train", "validation", "test")
CHUNK = 4096  # images; bounds the memory of the sums
MAX_SAMPLES = 20  # classes shown in samples.png

Split = tuple[np.ndarray, np.ndarray]  # images (N, C, H, W) uint8, labels (N,) int64


@dataclass(frozen=True)
class PixelSums:
    """Exact integer sums over a split, from which all reference figures follow."""

    count: int
    values: np.ndarray  # (C, H, W): sum of the values 0..255 over the images
    squares: np.ndarray  # (C, H, W): sum of their squares
    histogram: np.ndarray  # (256,): how often each value occurs in all images together


def run(space: config.Space, machine: Machine, paths: Paths) -> None:
    """Fetches, checks, splits and describes the data of a sweep. Raises UserError."""
    raw = sources.load(space.data, machine, paths)
    splits = split(space.data, raw)
    held_out = None
    if space.data.hold_out is not None:
        splits, held_out = hold_out(space.data.hold_out, splits, raw.classes)
    with atomic_folder(paths.prepare) as folder:
        for name, (images, labels) in splits.items():
            np.save(folder / f"{name}_images.npy", images)
            np.save(folder / f"{name}_labels.npy", labels)
        if held_out is not None:
            np.save(folder / "held_out_images.npy", held_out)
        write_json(folder / "manifest.json", _manifest(space.data, raw, splits, folder))
        _draw_samples(folder / "samples.png", splits["train"], raw.classes, space.data)


def split(data: config.Data, raw: RawData) -> dict[str, Split]:
    """The train, validation and test images. Raises UserError when one would be empty.

    Images are drawn by a seeded permutation and stay in its order, so that the first few of a
    split are a fair sample even where the source is sorted by class. Test images are split off
    first, unless the set has its own, which are never validation images; then `limit` cuts the
    training images; then validation images are split off these.
    """
    train: Split = (raw.train_images, raw.train_labels)
    if raw.test_images is None or raw.test_labels is None:
        train, test = _split_off(train, data.test, "data.test")
    else:
        if "test" in data.model_fields_set:
            raise UserError(f"data.test: {data.name} has test images of its own: remove the key")
        test = (raw.test_images, raw.test_labels)
    if data.limit is not None:
        if data.limit > len(train[0]):
            raise UserError(
                f"data.limit: must be at most the number of training images, {len(train[0])}, but"
                f" got {data.limit}: lower or remove it"
            )
        train = (train[0][: data.limit], train[1][: data.limit])
    train, validation = _split_off(train, data.validation, "data.validation")
    if len(train[0]) < 2:
        raise UserError(
            "data: at least 2 images must be left for training, but there is 1: add images or"
            " lower data.validation.fraction"
        )
    return {"train": train, "validation": validation, "test": test}


def hold_out(
    name: str, splits: dict[str, Split], classes: list[str]
) -> tuple[dict[str, Split], np.ndarray]:
    """The splits without a class, and that class's test images. Raises UserError."""
    if name not in classes:
        raise UserError(
            f"data.hold_out: must be one of {', '.join(classes)}, but got {name}: name a class"
        )
    number = classes.index(name)
    images, labels = splits["test"]
    kept = {
        split: (images[labels != number], labels[labels != number])
        for split, (images, labels) in splits.items()
    }
    if any(len(labels) == 0 for _, labels in kept.values()) or not (labels == number).any():
        raise UserError(
            f"data.hold_out: {name} must leave images in every split and have test images of its"
            " own: hold out another class"
        )
    return kept, images[labels == number]


def pixel_sums(images: np.ndarray) -> PixelSums:
    """The sums over images, uint8 (N, C, H, W), chunk by chunk."""
    values = np.zeros(images.shape[1:], np.int64)
    squares = np.zeros(images.shape[1:], np.int64)
    histogram = np.zeros(256, np.int64)
    for start in range(0, len(images), CHUNK):
        chunk = images[start : start + CHUNK]
        values += chunk.sum(axis=0, dtype=np.int64)
        squares += np.square(chunk, dtype=np.uint16).sum(axis=0, dtype=np.int64)
        histogram += np.bincount(chunk.ravel(), minlength=256)
    return PixelSums(len(images), values, squares, histogram)


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


def _split_off(
    images: Split, part: config.Validation | config.TestSplit, key: str
) -> tuple[Split, Split]:
    """(the rest, the first round(fraction * N) images of the seeded permutation)."""
    total = len(images[0])
    count = round(part.fraction * total)
    if not 0 < count < total:
        raise UserError(
            f"{key}.fraction: must leave at least 1 image on both sides, but {part.fraction:g} of"
            f" {total} is {count}: change it or add images"
        )
    order = np.random.Generator(np.random.PCG64(part.seed)).permutation(total)
    taken, rest = order[:count], order[count:]
    return (images[0][rest], images[1][rest]), (images[0][taken], images[1][taken])


def _manifest(
    data: config.Data, raw: RawData, splits: dict[str, Split], folder: Path
) -> dict[str, Any]:
    sums = {name: pixel_sums(images) for name, (images, _) in splits.items()}
    files = {path.name: sha256_of(path) for path in sorted(folder.glob("*.npy"))}
    train, held_out = sums["train"], {name: sums[name] for name in ("validation", "test")}
    own_test = raw.test_images is not None
    return {
        "data": data.name,
        "shape": list(splits["train"][0].shape[1:]),
        "classes": raw.classes,
        "counts": {name: sums[name].count for name in SPLITS},
        "class_counts": {
            name: np.bincount(splits[name][1], minlength=len(raw.classes)).tolist()
            for name in SPLITS
        },
        "levels": int(np.count_nonzero(sum(each.histogram for each in sums.values()))),
        "bernoulli": {
            "mean_image_nelbo_nats": {
                name: mean_image_nelbo_nats(train, other) for name, other in held_out.items()
            },
            "entropy_floor_nats": {
                name: entropy_floor_nats(other) for name, other in held_out.items()
            },
        },
        "mean_image_mse_per_pixel": {
            name: mean_image_mse_per_pixel(train, other) for name, other in held_out.items()
        },
        "split": {
            "test": "the set's own" if own_test else data.test.model_dump(),
            "limit": data.limit,
            "hold_out": data.hold_out,
            "validation": data.validation.model_dump(),
        },
        "source_sha256": raw.source_sha256,
        "files": files,
        "sha256": digest(files),
    }


def _draw_samples(path: Path, train: Split, classes: list[str], data: config.Data) -> None:
    """One training image of each class, drawn by the seed of the validation split."""
    from matplotlib.figure import Figure

    images, labels = train
    random = np.random.Generator(np.random.PCG64(data.validation.seed))
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
