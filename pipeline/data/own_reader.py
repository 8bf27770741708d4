"""Images that a function of your own reads, in a Python file that a space names."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Timer
from typing import Any

import numpy as np

from pipeline.data.readers import RawData, raw_data
from pipeline.errors import UserError
from pipeline.own_code import SECONDS, Sources, own_object, where
from pipeline.paths import Paths
from pipeline.settings.own_data import own_path, own_sha256
from pipeline.settings.sections import Data


@contextmanager
def waited_for(data: Data) -> Iterator[None]:
    """Says so once, as long as nobody can know how long its data take."""
    said = f"prepare waits for {data.reader}, which has not answered within {SECONDS:g} s"
    timer = Timer(SECONDS, print, [said], {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def digests_of(data: Data, source: Sources, paths: Paths) -> dict[str, str]:
    """Of what lies at `data.path`, and of the file that reads it."""
    there = own_sha256(data, paths)
    assert there is not None
    return {"path": there, **{file: each["sha256"] for file, each in source.items()}}


def read_own(data: Data, source: Sources, paths: Paths) -> RawData:
    """The images that `data.reader` gives of what lies at `data.path`, which it is asked twice.

    Raises UserError with the first fault, also if it has changed what it reads.
    """
    assert data.reader is not None
    before = digests_of(data, source, paths)
    arrays = _read(data, source, paths)
    first = _digest(arrays)
    found = raw_data(arrays, data.reader, before)
    again = _digest(_read(data, source, paths))
    if changed := [name for name in first if first[name] != again.get(name)]:
        raise UserError(
            f"{data.reader}: is not deterministic: gives other `{changed[0]}` when it is asked"
            " again: read in a fixed order, and seed its random numbers"
        )
    if digests_of(data, source, paths) != before:
        raise UserError(
            f"{data.reader}: changes what lies at data.path: it may only read there: correct it"
        )
    return found


def _read(data: Data, source: Sources, paths: Paths) -> dict[str, np.ndarray]:
    assert data.reader is not None
    assert data.path is not None
    function = own_object(data.reader, source)
    try:
        answer: Any = function(own_path(paths.root, data.path))
        if not isinstance(answer, Mapping):
            raise UserError(
                f"{data.reader}: must give arrays by name, `images` and `labels`, but gives"
                f" {type(answer).__name__}: return a dict of them"
            )
        return {str(key): np.asarray(value) for key, value in answer.items() if value is not None}
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{data.reader}: fails: {where(error, data.reader)}: correct it") from error


def _digest(arrays: dict[str, np.ndarray]) -> dict[str, str]:
    return {
        name: hashlib.sha256(f"{array.dtype} {array.shape}".encode() + array.tobytes()).hexdigest()
        for name, array in arrays.items()
    }
