"""What can be told of a sweep's images from the heads of their files: no pixels are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.image_folder import image_files, read_image
from pipeline.data.own_reader import digests_of, read_own
from pipeline.data.readers import look_at_npz
from pipeline.errors import UserError
from pipeline.files import read_json
from pipeline.own_code import Fault, in_time
from pipeline.paths import Paths
from pipeline.results.record import checked
from pipeline.settings.own_data import own_place
from pipeline.settings.own_files import SOURCES
from pipeline.settings.sections import Data
from pipeline.settings.space import Space

KNOWN = {  # images for training and testing, and their shape
    "fashion-mnist": (60_000, 10_000, (1, 28, 28)),
    "mnist": (60_000, 10_000, (1, 28, 28)),
    "digits": (1_797, 0, (1, 8, 8)),
}


@dataclass(frozen=True)
class Images:
    """How many images there are of which shape; `note` is what `check` says of them."""

    note: str
    count: int = 0
    test: int = 0
    shape: tuple[int, int, int] | None = None


def find_images(space: Space, paths: Paths) -> Images:
    """What can be told of the data without reading pixels; a reader of your own is asked for all.

    Raises UserError where `data.path` cannot be read.
    """
    data = space.data
    if paths.manifest.exists():
        manifest = read_json(checked(paths, paths.manifest))
        if manifest["data"] == data.name and data.path is None:
            return _prepared(manifest)
    if data.path is None:
        count, test, shape = KNOWN[data.name]
        if not test:
            test = round(count * data.test.fraction)
            count -= test
        note = f"{count:,} and {test:,} for the test, {'×'.join(map(str, shape))}"
        return Images(note, count, test, shape)
    path = own_place(data, paths.root)
    try:
        if path.is_dir():
            next(path.iterdir(), None)
        else:
            path.open("rb").close()
    except PermissionError:
        raise UserError(
            f"data.path: {path} cannot be read by you: change its permissions"
        ) from None
    if data.name == "pickle":
        return Images(f"a pickle of {megabytes(path.stat().st_size)} at {path}")
    if data.name == "own":
        found = _own(space, path, paths)
    else:
        found = _folder(path, data) if data.name == "images" else _npz(path)
    if found.test:
        return found
    test = round(found.count * data.test.fraction)
    return Images(found.note, found.count - test, test, found.shape)


def _prepared(manifest: dict[str, Any]) -> Images:
    counts, (c, h, w) = manifest["counts"], manifest["shape"]
    note = f"{counts['train']:,} to train on, {c}×{h}×{w}: prepared"
    return Images(note, counts["train"] + counts["validation"], counts["test"], (c, h, w))


def _folder(path: Path, data: Data) -> Images:
    """The files of a folder, and the shape of the first, fitted as the section says."""
    train, test = image_files(path)
    height, width, channels = read_image(train[0][0], data).shape
    count, classes = len(train), len({label for _, label in train})
    kinds = "class" if classes == 1 else "classes"
    note = f"{count:,} in {classes} {kinds} at {path}, the first {channels}×{height}×{width}"
    return Images(note, count, len(test), (channels, height, width))


def _own(space: Space, path: Path, paths: Paths) -> Images:
    """What a reader gives, as `prepare` has it, or has had it of the same data."""
    name, source = str(space.data.reader), space.section("data")[SOURCES]
    if paths.manifest.exists():
        manifest = read_json(checked(paths, paths.manifest))
        if manifest["source_sha256"] == digests_of(space.data, source, paths):
            return _prepared(manifest)
    try:
        with in_time(name):
            raw = read_own(space.data, source, paths)
    except Fault as fault:
        raise UserError(
            f"{name}: {fault}: correct it; if it reads that much, `python -m pipeline prepare"
            f" {space.name}` waits for it, and `check` then tells the rest"
        ) from None
    count, channels, height, width = raw.train_images.shape
    note = f"{count:,} by {space.data.reader} at {path}, {channels}×{height}×{width}"
    test = len(raw.test_images) if raw.test_images is not None else 0
    return Images(note, count, test, (channels, height, width))


def _npz(path: Path) -> Images:
    """The heads of an npz file's arrays."""
    (count, *shape), test = look_at_npz(path)
    note = f"{count:,} at {path}, {'×'.join(map(str, shape))}"
    return Images(note, count, test, (shape[0], shape[1], shape[2]))


def megabytes(count: float) -> str:
    return f"{count / 1e6:,.0f} MB" if count < 1e9 else f"{count / 1e9:,.1f} GB"
