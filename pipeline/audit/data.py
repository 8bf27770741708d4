"""The prepared data: whether manifest.json states what the arrays hold and how they were split."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline.audit.book import Book
from pipeline.audit.digests import sha256
from pipeline.audit.text import CLOSE
from pipeline.data.known import facts
from pipeline.data.reference import described
from pipeline.seeds import digest
from pipeline.settings.own_files import SOURCES

FILE = "prepare/manifest.json"


def findings(book: Book) -> Iterator[str]:
    """What does not follow in prepare/."""
    files = book.manifest["files"]
    if digest(files) != book.manifest["sha256"]:
        yield f"{FILE}: sha256 is not that of its files"
    for name, expected in files.items():
        if sha256(book.paths.prepare / name) != expected:
            yield f"prepare/{name}: is not the array that manifest.json names"
    yield from _split(book)
    yield from _source(book)
    yield from _figures(book)


def _split(book: Book) -> Iterator[str]:
    """The arrays were split off as the settings say."""
    settings, split = book.records["prepare"].settings["data"], book.manifest["split"]
    for key, value in split.items():
        if value != settings[key] and not (key == "test" and isinstance(value, str)):  # its own
            yield f"{FILE}: split.{key} is {value}, but the settings {settings[key]}"


def _source(book: Book) -> Iterator[str]:
    """Of a known set, what it is made from and what its classes are called is known."""
    settings, manifest = book.records["prepare"].settings["data"], book.manifest
    if manifest["data"] != settings["name"]:
        yield f"{FILE}: data {manifest['data']} is not {settings['name']}"
    for file, source in settings.get(SOURCES, {}).items():
        if manifest["source_sha256"].get(file) != source["sha256"]:
            yield f"{FILE}: source_sha256 is not that of {file}, which has read the data"
    if settings["path"] is None:
        classes, sources = facts(settings["name"])
        yield from _unlike(manifest["classes"], classes, "classes", "the set")
        yield from _unlike(manifest["source_sha256"], sources, "source_sha256", "the set")


def _figures(book: Book) -> Iterator[str]:
    """Shape, counts, floors and the mean image's figures are those of the arrays."""

    def array(split: str, kind: str) -> Any:
        return np.load(book.paths.prepare / f"{split}_{kind}.npy", mmap_mode="r")

    splits = {
        name: (array(name, "images"), array(name, "labels")) for name in book.manifest["counts"]
    }
    due = described(splits, len(book.manifest["classes"]))
    for key, value in due.items():
        yield from _unlike(book.manifest.get(key), value, key, "its arrays")


def _unlike(stated: Any, due: Any, name: str, of: str) -> Iterator[str]:
    """Where nested figures differ; sums may differ in their last digits."""
    if isinstance(stated, dict) and isinstance(due, dict):
        for key in sorted(stated.keys() | due.keys()):
            yield from _unlike(stated.get(key), due.get(key), f"{name}.{key}", of)
    elif isinstance(due, float) and isinstance(stated, float):
        if not math.isclose(stated, due, rel_tol=CLOSE, abs_tol=CLOSE):
            yield f"{FILE}: {name} is {stated}, but follows as {due} from {of}"
    elif stated != due:
        yield f"{FILE}: {name} is {stated!s:.80}, but follows as {due!s:.80} from {of}"
