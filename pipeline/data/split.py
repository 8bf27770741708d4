"""Train, validation and test images: split once, by seeded permutations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.data.readers import RawData
from pipeline.data.reference import Split, at_once
from pipeline.errors import UserError
from pipeline.files import read_array
from pipeline.settings.sections import Data, TestSplit, Validation

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Chosen:
    """Images of a set by their places in it, of which no copy is made before they are written."""

    images: np.ndarray  # (N, C, H, W) uint8, the whole set
    labels: np.ndarray  # (N,) int64
    rows: np.ndarray  # (n,) places, in the order of the split
    flip: bool = False  # followed by the same, mirrored

    def keep(self, which: np.ndarray) -> Chosen:
        """Those whose label is one that `which`, a bool for each label of the set, says."""
        return replace(self, rows=self.rows[which[self.rows]])

    def write(self, file: Path) -> np.ndarray:
        """The images as an npy file, as numpy.save would write it; mapped from there.

        Written part by part and not through a map, in which a full disk would end the process.
        """
        count = len(self.rows) * (2 if self.flip else 1)
        head = {"descr": "|u1", "fortran_order": False, "shape": (count, *self.images.shape[1:])}
        step = at_once(self.images)
        with file.open("wb") as out:
            np.lib.format.write_array_header_1_0(out, head)
            for mirrored in (False, True)[: 1 + self.flip]:
                for start in range(0, len(self.rows), step):
                    part = self.images[self.rows[start : start + step]]
                    out.write((part[..., ::-1] if mirrored else part).tobytes())
        return read_array(file, mapped=True)

    def write_split(self, folder: Path, name: str) -> Split:
        """Images and labels as NAME_images.npy and NAME_labels.npy."""
        labels = np.tile(self.labels[self.rows], 2 if self.flip else 1)
        np.save(folder / f"{name}_labels.npy", labels)
        return self.write(folder / f"{name}_images.npy"), labels


def split(data: Data, raw: RawData) -> dict[str, Chosen]:
    """The train, validation and test images. Raises UserError when one would be empty.

    Images are drawn by a seeded permutation and stay in its order, so that the first few of a
    split are a fair sample even where the source is sorted by class. Test images are split off
    first, unless the set has its own, which are never validation images; then `limit` cuts the
    training images; then validation images are split off these, and with `flip` the
    mirrored training images follow the others.
    """
    train = _whole(raw.train_images, raw.train_labels)
    if raw.test_images is None or raw.test_labels is None:
        train, test = _split_off(train, data.test, "data.test")
    else:
        if "test" in data.model_fields_set:
            raise UserError(f"data.test: {data.name} has test images of its own: remove the key")
        test = _whole(raw.test_images, raw.test_labels)
    if data.limit is not None:
        if data.limit > len(train.rows):
            raise UserError(
                f"data.limit: must be at most the number of training images, {len(train.rows)}, but"
                f" got {data.limit}: lower or remove it"
            )
        train = replace(train, rows=train.rows[: data.limit])
    train, validation = _split_off(train, data.validation, "data.validation")
    if len(train.rows) < 2:
        raise UserError(
            "data: at least 2 images must be left for training, but there is 1: add images or"
            " lower data.validation.fraction"
        )
    return {"train": replace(train, flip=data.flip), "validation": validation, "test": test}


def hold_out(
    name: str, splits: dict[str, Chosen], classes: list[str]
) -> tuple[dict[str, Chosen], Chosen]:
    """The splits without a class, and that class's test images. Raises UserError."""
    if name not in classes:
        raise UserError(
            f"data.hold_out: must be one of {', '.join(classes)}, but got {name}: name a class"
        )
    number = classes.index(name)
    kept = {split: each.keep(each.labels != number) for split, each in splits.items()}
    held = splits["test"].keep(splits["test"].labels == number)
    if any(len(each.rows) == 0 for each in (*kept.values(), held)):
        raise UserError(
            f"data.hold_out: {name} must leave images in every split and have test images of its"
            " own: hold out another class"
        )
    return kept, held


def _whole(images: np.ndarray, labels: np.ndarray) -> Chosen:
    return Chosen(images, labels, np.arange(len(images)))


def _split_off(whole: Chosen, part: Validation | TestSplit, key: str) -> tuple[Chosen, Chosen]:
    """(the rest, the first round(fraction * N) images of the seeded permutation)."""
    total = len(whole.rows)
    count = round(part.fraction * total)
    if not 0 < count < total:
        raise UserError(
            f"{key}.fraction: must leave at least 1 image on both sides, but {part.fraction:g} of"
            f" {total} is {count}: change it or add images"
        )
    order = np.random.Generator(np.random.PCG64(part.seed)).permutation(total)
    taken, rest = whole.rows[order[:count]], whole.rows[order[count:]]
    return replace(whole, rows=rest), replace(whole, rows=taken)
