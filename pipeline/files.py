"""The only ways in which files come into being, and how our own and databases are read."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it if the block succeeds, else vanishes.

    After a power cut there is the old file or the new one, never a torn one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(path)
    temporary, handle = _held(lambda: _new_file(path))
    try:
        yield temporary
        temporary.chmod(0o644)
        _to_disk(temporary)
        temporary.replace(path)
        _to_disk(path.parent)
    except OSError as error:
        error.filename = error.filename or str(path)  # a failed write does not name its file
        raise
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that replaces the folder `path` if the block succeeds.

    Whenever its writer is killed there is the old folder or the new one, whole: see
    `recover_folder`. Of several writers the last one wins. A link stays, and its target is
    replaced. Raises UserError for a link that leads nowhere.
    """
    path = _target(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(path)
    temporary, handle = _held(lambda: _new_folder(path))
    try:
        yield temporary
        temporary.chmod(0o755)
        for inner in [*temporary.rglob("*"), temporary]:
            _to_disk(inner)
        _swap(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(handle)


def check_folder(path: Path) -> None:
    """Raises, as `atomic_folder` would when all is done, where no folder can be written."""
    path = _target(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):  # someone took it for a leftover
        Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.")).rmdir()


def recover_folder(path: Path) -> None:
    """Puts the old folder back if its writer was killed between taking it away and the new one."""
    path = Path(os.path.realpath(path))
    old = _old(path)
    if path.exists() or not old.exists():
        return
    with contextlib.suppress(OSError), _alone(path.parent):  # who may not write finds it missing
        if not path.exists():
            old.rename(path)


def _swap(new: Path, path: Path) -> None:
    """Takes the old folder aside and puts the new one in its place, alone."""
    old = _old(path)
    with _alone(path.parent):
        if path.exists():
            if not path.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
            if old.exists():  # of a writer that was killed after its swap
                _discard(old)
            path.rename(old)
        new.rename(path)
        _to_disk(path.parent)
        if old.exists():
            _discard(old)


def _discard(old: Path) -> None:
    """Removes a folder that was taken aside, under another name: what has its own is whole."""
    gone = Path(tempfile.mkdtemp(dir=old.parent, prefix=f"{old.name.removesuffix('old')}"))
    old.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)  # the next writer tries again


def _old(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _target(path: Path) -> Path:
    """The folder itself or, of a link, the one that it leads to. Raises UserError."""
    if not path.is_symlink():
        return path
    if not path.exists():
        raise UserError(f"{path} is a link that leads nowhere: mount its target or drop it")
    return path.resolve()


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Waits until no other process changes a folder's entries so."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a disk without such locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _held(make: Callable[[], tuple[Path, int]]) -> tuple[Path, int]:
    """A new temporary and an open handle whose lock tells others that its writer lives.

    Without such locks on a disk nothing is ever cleared.
    """
    while True:
        path, handle = make()
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_SH)
        if path.exists():  # nobody took it for a leftover before it was locked
            return path, handle
        os.close(handle)


def _new_file(path: Path) -> tuple[Path, int]:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    return Path(name), handle


def _new_folder(path: Path) -> tuple[Path, int]:
    while True:
        name = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        with contextlib.suppress(FileNotFoundError):  # someone took it for a leftover
            return name, os.open(name, os.O_RDONLY)


def _clear_leftovers(path: Path) -> None:
    """Removes what killed writers of `path` have left. A living one holds a lock on its own."""
    for left in path.parent.glob(f".{path.name}.*"):
        if left == _old(path):
            continue
        with contextlib.suppress(OSError):
            handle = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            finally:
                os.close(handle)


def _to_disk(path: Path) -> None:
    """Waits until a file's content, or a folder's entries, would survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Writes a whole text file or nothing."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes readable JSON with a stable layout: same value, same bytes."""
    write_text(path, as_json(value))


def as_json(value: Any) -> str:
    """The text that `write_json` writes."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def read_json(path: Path) -> Any:
    """What `write_json` has written. Raises UserError if someone has damaged it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once,
                          parse_constant=_no_number)  # fmt: skip
    except (ValueError, RecursionError) as error:
        raise damaged(path, error) from None


def _no_number(name: str) -> float:
    """NaN and infinities, which no JSON has and `write_json` never writes."""
    raise ValueError(f"{name} is no number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of a key that is given twice, readers see one value and people the other."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is given twice")
    return found


def read_array(path: Path, *, mapped: bool = False) -> np.ndarray:
    """An array that a stage has written. Raises UserError if someone has damaged it.

    If `mapped`, its pages are those of the file, which all processes of a host share; what is
    written to it reaches neither.
    """
    import numpy as np

    try:
        content: np.ndarray = np.load(path, allow_pickle=False, mmap_mode="c" if mapped else None)
        return content
    except (ValueError, EOFError) as error:
        raise damaged(path, error) from None


def read_table(path: Path, **options: Any) -> pd.DataFrame:
    """A CSV file that a stage has written; `options` are pandas'. Raises UserError likewise."""
    import pandas as pd

    try:
        return pd.read_csv(path, **options)
    except ValueError as error:
        raise damaged(path, error) from None


def damaged(path: Path, error: Exception) -> UserError:
    """The message about a file that we wrote, whole, and that is not whole any more."""
    return UserError(
        f"{path} is damaged ({error}): delete it and run the stage that writes it again"
    )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    closing = contextlib.closing
    with closing(sqlite3.connect(uri, uri=True)) as old, closing(sqlite3.connect(copy)) as new:
        old.backup(new)


def _writable(path: Path) -> bool:
    effective = os.access in os.supports_effective_ids  # whose rights opening a file goes by
    return path.exists() and os.access(path, os.W_OK, effective_ids=effective)
