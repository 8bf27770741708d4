"""What an npz file says that it holds, before any of it is unfolded."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np
import psutil

from pipeline.errors import UserError


def arrays(path: Path) -> dict[str, np.ndarray]:
    """Arrays of the shapes and types of its own, by name; they hold nothing and take no memory.

    Raises UserError if it is no npz file, or says that it holds more than it does, or more than
    this machine could.
    """
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path}: must be an npz file, but is another: write it with numpy.savez")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if not all(entry.filename.endswith(".npy") for entry in entries):
                raise UserError(
                    f"{path}: must be an npz file, but got a zip of others: use numpy.savez"
                )
            found = {e.filename.removesuffix(".npy"): _array(archive, e) for e in entries}
    except UserError:
        raise
    except Exception as error:
        raise unreadable(path, error) from None
    unfolded, memory = sum(entry.file_size for entry in entries), psutil.virtual_memory().total
    if unfolded > memory:
        raise UserError(
            f"{path}: an npz file must fit into memory, {memory:,} bytes, but its arrays have"
            f" {unfolded:,}: leave some images out"
        )
    return found


def unreadable(path: Path, error: Exception) -> UserError:
    """A broken file makes numpy, zipfile and zlib raise a dozen types."""
    detail = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{path}: cannot be read as npz ({detail:.200}): write it again")


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(entry) as member:
        first = np.lib.format.read_magic(member) == (1, 0)
        read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(member)
        held = entry.file_size - member.tell()
    if not dtype.hasobject and (min(shape, default=0) < 0 or _bytes(shape, dtype) != held):
        raise ValueError(f"{entry.filename} says {shape} of {dtype}, but holds {held} bytes")
    return np.broadcast_to(np.zeros((), dtype), shape)


def _bytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    return math.prod(shape) * dtype.itemsize
