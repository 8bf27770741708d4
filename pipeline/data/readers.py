"""Arrays of images from files: IDX, npz and pickled dicts, checked (folders: `image_folder`)."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.data import heads, unpickle
from pipeline.errors import UserError
from pipeline.files import atomic_path, sha256_of

ARRAYS = ("images", "data", "labels", "test_images", "test_labels")
MAX_CHANNELS = 4
ONE_CLASS = "all"  # name of the class of unlabelled images


@dataclass(frozen=True)
class RawData:
    """A data set before it is split.

    Images are uint8 (N, C, H, W); labels int64 (N,), indices into `classes`. The test arrays
    are None where the set has no test images of its own.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray | None
    test_labels: np.ndarray | None
    classes: list[str]
    source_sha256: dict[str, str]


def read_idx(content: bytes, where: str) -> np.ndarray:
    """The uint8 array in an IDX file. Raises UserError."""
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise UserError(
            f"{where}: an IDX file of bytes starts with 00 00 08, but got another start"
        )
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise UserError(f"{where}: the IDX header is cut off: fetch the file again")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    if math.prod(shape) != len(content) - start:
        raise UserError(
            f"{where}: an IDX file of shape {shape} holds {math.prod(shape)} values, but got"
            f" {len(content) - start}: fetch the file again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_npz(path: Path) -> RawData:
    """The arrays `images` (or `data`), `labels`, `test_images`, `test_labels` of an npz file.

    Images are uint8 (N, H, W), (N, H, W, C) or (N, C, H, W); all but the images may be left
    out. Raises UserError.
    """
    return raw_data(_arrays(path), path, {path.name: sha256_of(path)})


def look_at_npz(path: Path) -> tuple[tuple[int, ...], int]:
    """The shape (N, C, H, W) of the images that `read_npz` would read, and how many are for the
    test, by what the file says that it holds. Raises UserError, as `read_npz` would."""
    train, test = _images(heads.arrays(path), path)
    return train.shape, len(test) if test is not None else 0


def read_pickle(path: Path, downloads: Path) -> RawData:
    """A pickled dict of the arrays that `read_npz` takes.

    It is converted to npz once, in a child process with limited memory and time, and kept as
    downloads/pickle/SHA256.npz. Raises UserError; nothing that the pickle names is executed.
    """
    sha256 = sha256_of(path)
    converted = downloads / "pickle" / f"{sha256}.npz"
    if not converted.exists():
        with atomic_path(converted) as temporary:
            unpickle.to_npz(path, temporary)
    return raw_data(_arrays(converted), path, {path.name: sha256})


def _arrays(path: Path) -> dict[str, np.ndarray]:
    heads.arrays(path)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:
        raise heads.unreadable(path, error) from None


def _check_names(names: set[str], where: Path | str) -> None:
    unknown = sorted(names - set(ARRAYS))
    if unknown:
        raise UserError(
            f"{where}: unknown array {unknown[0]!r:.80}: rename or remove it; valid:"
            f" {', '.join(ARRAYS)}"
        )
    if ("images" in names) == ("data" in names):
        raise UserError(f"{where}: must hold the array `images` or `data`, one of the two: add it")
    if "test_labels" in names and "test_images" not in names:
        raise UserError(f"{where}: `test_labels` needs `test_images`: add them")
    if "test_images" in names and ("labels" in names) != ("test_labels" in names):
        raise UserError(f"{where}: `labels` and `test_labels` go together: add the missing ones")


def raw_data(arrays: dict[str, np.ndarray], where: Path | str, source: dict[str, str]) -> RawData:
    """The data set of the arrays that `read_npz` takes; `where` names them in a UserError."""
    train, test = _images(arrays, where)
    labels = _labels(arrays.get("labels"), len(train))
    test_labels = _labels(arrays.get("test_labels"), len(test) if test is not None else 0)
    names, indices = np.unique(np.concatenate([labels, test_labels]), return_inverse=True)
    classes = [str(name) for name in names] if "labels" in arrays else [ONE_CLASS]
    indices = indices.astype(np.int64)
    return RawData(
        np.ascontiguousarray(train),
        indices[: len(train)],
        np.ascontiguousarray(test) if test is not None else None,
        indices[len(train) :] if test is not None else None,
        classes,
        source,
    )


def _images(
    arrays: dict[str, np.ndarray], where: Path | str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Views (N, C, H, W) of the images, and of those for the test. Raises UserError if anything
    about names, shapes and types is wrong."""
    _check_names(set(arrays), where)
    train = _channels_first(arrays["images" if "images" in arrays else "data"], where)
    test = None
    if "test_images" in arrays:
        test = _channels_first(arrays["test_images"], where)
        if test.shape[1:] != train.shape[1:]:
            raise UserError(
                f"{where}: test images must have the shape of the others, {train.shape[1:]},"
                f" but got {test.shape[1:]}: resize them"
            )
    _check_labels(arrays.get("labels"), len(train), where)
    _check_labels(arrays.get("test_labels"), len(test) if test is not None else 0, where)
    return train, test


def _channels_first(images: np.ndarray, where: Path | str) -> np.ndarray:
    """A view (N, C, H, W) of checked images."""
    if images.dtype != np.uint8:
        raise UserError(
            f"{where}: images must be 8-bit values (uint8), but got {images.dtype}: scale them to"
            " 0..255 and convert"
        )
    if images.ndim not in (3, 4) or 0 in images.shape:
        raise UserError(
            f"{where}: images must be (N, H, W), (N, H, W, C) or (N, C, H, W) and not empty, but"
            f" got {images.shape}: reshape them"
        )
    if images.ndim == 3:
        return images[:, None]
    last, first = images.shape[3] <= MAX_CHANNELS, images.shape[1] <= MAX_CHANNELS
    if last == first:
        raise UserError(
            f"{where}: exactly one of the axes 1 and 3 of the images must be at most"
            f" {MAX_CHANNELS} long, the channels, but got {images.shape}: reshape them"
        )
    return images.transpose(0, 3, 1, 2) if last else images


def _check_labels(labels: np.ndarray | None, count: int, where: Path | str) -> None:
    if labels is None:
        return
    if labels.shape != (count,):
        raise UserError(
            f"{where}: there must be one label an image, ({count},), but got {labels.shape}:"
            " add or drop some"
        )
    if labels.dtype.kind not in "iuU":
        raise UserError(
            f"{where}: labels must be integers or text, but got {labels.dtype}: convert"
        )


def _labels(labels: np.ndarray | None, count: int) -> np.ndarray:
    if labels is None:
        return np.zeros(count, np.int64)
    return labels if labels.dtype.kind == "U" else labels.astype(np.int64)
