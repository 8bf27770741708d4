"""Where data come from: the known sets are found or downloaded and verified, one's own are read.

A known set is tried from one source after the other, nearest first; whatever the source, the
uncompressed IDX files must have the known SHA-256. Verified files are kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from pipeline.data import readers
from pipeline.data.download import Unusable, from_apt, from_npm, from_torchvision, verified
from pipeline.data.image_folder import read_images
from pipeline.data.known import FILES, KNOWN, KnownSet, facts
from pipeline.data.own_reader import read_own, waited_for
from pipeline.data.readers import RawData
from pipeline.errors import UserError
from pipeline.files import atomic_path, sha256_of
from pipeline.paths import Paths, main_checkout
from pipeline.settings.machine import Machine
from pipeline.settings.own_data import own_place
from pipeline.settings.own_files import SOURCES
from pipeline.settings.sections import KNOWN_DATA
from pipeline.settings.space import Space

DEBIAN = Path("/usr/share/datasets")


def load(space: Space, machine: Machine, paths: Paths) -> RawData:
    """The images that the `data` section names. Raises UserError."""
    data = space.data
    if data.path is None:
        return load_known(data.name, machine, paths)
    if data.name == "own":
        with waited_for(data):
            return read_own(data, space.section("data")[SOURCES], paths)
    path = own_place(data, paths.root)
    if data.name == "images":
        paths.state.mkdir(parents=True, exist_ok=True)
        return read_images(path, data, paths.state)
    if data.name == "npz":
        return readers.read_npz(path)
    return readers.read_pickle(path, paths.downloads)


def load_known(name: str, machine: Machine, paths: Paths) -> RawData:
    """All images of fashion-mnist, mnist or digits. Raises UserError."""
    if name == "digits":
        return _digits()
    if name not in KNOWN:
        raise UserError(f"a known data set is one of {', '.join(KNOWN_DATA)}, not {name!r}")
    files = _fetch(KNOWN[name], machine, paths)
    train_images, train_labels, test_images, test_labels = (
        readers.read_idx(files[file], f"{name}/{file}") for file in FILES
    )
    return RawData(
        train_images[:, None],
        train_labels.astype(np.int64),
        test_images[:, None],
        test_labels.astype(np.int64),
        *facts(name),
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
        facts("digits")[0],
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
                    file: verified(folder, file, sha256)
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
        mirror = _mirror(machine.data_mirror, paths) / known.name
        yield f"data_mirror {mirror}", contextlib.nullcontext(mirror)
    yield f"{DEBIAN / known.name}", contextlib.nullcontext(DEBIAN / known.name)
    if known.torchvision:
        yield "torchvision", from_torchvision(known.torchvision)
    if known.apt:
        yield f"apt package {known.apt}", from_apt(known.apt, known.name)
    if known.npm:
        yield f"npm package {known.npm}", from_npm(known.npm, FILES)


def _mirror(named: str, paths: Paths) -> Path:
    """The folder of machine.yaml's data_mirror. Raises UserError if there is none."""
    try:
        folder = main_checkout(paths.root) / Path(named).expanduser()
    except RuntimeError:  # ~ of a user who is not there
        folder = Path(named)
    if not folder.is_dir():
        raise UserError(
            f"data_mirror must be a folder, but got {named}: correct it in machine.yaml or leave it"
            " out"
        )
    return folder


def _keep(files: dict[str, bytes], folder: Path, known: KnownSet) -> None:
    for (file, content), sha256 in zip(files.items(), known.sha256, strict=True):
        path = folder / file
        if not (path.exists() and sha256_of(path) == sha256):
            with atomic_path(path) as temporary:
                temporary.write_bytes(content)
