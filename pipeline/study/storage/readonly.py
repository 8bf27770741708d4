"""The ledger for commands that only look: they change no file and need no right to write."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pipeline.errors import UserError
from pipeline.files import copy_now, may_write
from pipeline.paths import Paths
from pipeline.settings.machine import Machine
from pipeline.study.storage.ledger import Ledger, storage_url

LOOKING_SECONDS = 2.0  # who only looks is told soon, in one line, that there is nothing to see


@contextmanager
def reading(machine: Machine, paths: Paths, patience: float = LOOKING_SECONDS) -> Iterator[Ledger]:
    """The ledger, or what it holds now where it may not be written; an empty one if there is none.

    `patience` in seconds is for a storage that is away. Raises UserError if it cannot be read.
    """
    file = paths.ledger
    if machine.storage or (may_write(file) and has_ledger(machine, paths)):
        with closing(Ledger(storage_url(machine, paths), patience=patience)) as ledger:
            yield ledger
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, file.name)
        if has_ledger(machine, paths):
            _copy(file, copy)
        with closing(Ledger(f"sqlite:///{copy}")) as ledger:
            yield ledger


@contextmanager
def working(machine: Machine, paths: Paths) -> Iterator[Ledger]:
    """The ledger, to be changed; if there is none, an empty one that nobody sees.

    Commands that begin no study would otherwise make one. Raises UserError where the state is not
    mounted.
    """
    if not has_ledger(machine, paths):
        if paths.state.is_symlink() and not paths.state.exists():
            raise UserError(
                f"{paths.state} is a link that leads nowhere: mount its target or drop it"
            )
        with reading(machine, paths) as nothing:
            yield nothing
        return
    with closing(Ledger(storage_url(machine, paths))) as ledger:
        yield ledger


def has_ledger(machine: Machine, paths: Paths) -> bool:
    """Whether there is one: to open what is not there, or is an empty file, makes one."""
    return bool(machine.storage) or (paths.ledger.exists() and paths.ledger.stat().st_size > 0)


def _copy(file: Path, copy: Path) -> None:
    try:
        copy_now(file, copy)
    except sqlite3.Error as error:
        raise UserError(f"the ledger {file} cannot be read ({error}): ask its owner") from None
