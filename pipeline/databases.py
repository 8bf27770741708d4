"""SQLite files of others: whether this person may write one, and a copy of what it holds now."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path


def may_write(file: Path) -> bool:
    """Whether a database that is there may be opened: SQLite writes beside it, even to read."""
    return _writable(file) and _writable(file.parent)


def copy_now(file: Path, copy: Path) -> None:
    """A whole copy, of the moment, of a database that others may be writing.

    Raises sqlite3.Error where it cannot be read.
    """
    # What nobody has open has no shared memory, and SQLite may not make it here: then the file is
    # whole and stands still.
    standing = "" if Path(f"{file}-shm").exists() else "&immutable=1"
    uri = f"{file.absolute().as_uri()}?mode=ro{standing}"
    with closing(sqlite3.connect(uri, uri=True)) as old, closing(sqlite3.connect(copy)) as new:
        old.backup(new)


def _writable(path: Path) -> bool:
    effective = os.access in os.supports_effective_ids  # whose rights opening a file goes by
    return path.exists() and os.access(path, os.W_OK, effective_ids=effective)
