"""Train, validation and test images: split once, by seeded permutations."""

from __future__ import annotations

import numpy as np

from pipeline.data.readers import RawData
from pipeline.data.reference import Split
from pipeline.errors import UserError
from pipeline.settings.sections import Data, TestSplit, Validation

SPLITS = ("train", "validation", "test")


def split(data: Data, raw: RawData) -> dict[str, Split]:
    """The train, validation and test images. Raises UserError when one would be empty.

    Images are drawn by a seeded permutation and stay in its order, so that the first few of a
    split are a fair sample even where the source is sorted by class. Test images are split off
    first, unless the set has its own, which are never validation images; then `limit` cuts the
    training images; then validation images are split off these, and with `flip` the
    mirrored training images follow the others.
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
    if data.flip:
        images, labels = train
        train = (np.concatenate([images, images[..., ::-1]]), np.concatenate([labels, labels]))
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


def _split_off(images: Split, part: Validation | TestSplit, key: str) -> tuple[Split, Split]:
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
