"""A database that is away for a minute costs a minute: what is tried again, and for how long."""

from __future__ import annotations

import math
import random
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import sqlalchemy as sa

from pipeline.errors import UserError

T = TypeVar("T")

PATIENCE_SECONDS = 60.0
SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 4.0
SILENT_SECONDS = 2.0  # a shorter outage is not worth a word

# What is tried again, because it passes by itself or is over at the next try.
SQLSTATES = {
    "40001": "serialization failure",
    "40P01": "deadlock",
    "55P03": "lock not available",  # lock_timeout
    "57014": "statement cancelled",  # statement_timeout
    "25P03": "idle in a transaction",  # the server ended it: we were frozen
    "53300": "too many connections",
    "57P01": "server shutting down",
    "57P02": "server crashed",
    "57P03": "server starting up",
    "57P05": "idle session",
}
CONNECTION_CLASS = "08"  # of SQLSTATEs: connection lost or refused
SQLITE_CODES = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)
# A refusal while connecting has no SQLSTATE, only its text. These pass, other ones do not.
FATAL = "FATAL:"
PASSING = ("starting up", "shutting down", "recovery", "not yet accepting", "too many", "slots are")

_jitter = random.Random()  # its own: the trainings' draws are not to move
_present = threading.local()  # what this thread tries at present, if anything


class StorageError(UserError):
    """The ledger's database cannot be used, be it for now or for good."""


class StorageAway(StorageError):
    """It was away for as long as it is waited for; the same call succeeds when it is back."""


@contextmanager
def _trying() -> Iterator[None]:
    _present.began = time.monotonic()
    try:
        yield
    finally:
        _present.began = math.inf


@_trying()
def keep_trying(
    work: Callable[[], T],
    place: str,
    *,
    seconds: float = PATIENCE_SECONDS,
    first: Callable[[], None] | None = None,
    blocker: Callable[[], str] = str,
) -> T:
    """Does `work` again, with growing pauses, while the database at `place` is away or locked.

    `work` must come to the same when it is done twice: a connection may be lost after a commit and
    before its answer. `first` is called once before it waits or gives up, `blocker` says who holds
    the lock and what to do. Raises StorageAway after `seconds`, StorageError for what stays.
    """
    began, pause, told = time.monotonic(), SHORTEST_PAUSE, False
    while True:
        try:
            return work()
        except sa.exc.DBAPIError as error:
            if not is_passing(error):
                raise _for_good(error, place) from None
            why = detail(error)
            locked = is_locked(error)
        _present.began = -math.inf
        if first is not None:
            first()
            first = None
        left = began + seconds - time.monotonic()
        if left <= 0:
            remedy = (locked and blocker()) or (
                "see to its server, or correct `storage` in machine.yaml"
            )
            waited = time.monotonic() - began
            raise StorageAway(
                f"storage {place} is away for {waited:.0f} s: {why}: {remedy}; then the same"
                " command goes on"
            )
        if not told and time.monotonic() - began > SILENT_SECONDS:
            held = f": {found}" if locked and (found := blocker()) else ""
            print(f"waiting for storage {place}, {left:.0f} s at most: {why}{held}",
                  file=sys.stderr, flush=True)  # fmt: skip
            told = True
        time.sleep(min(pause * _jitter.uniform(0.5, 1.0), left))
        pause = min(2 * pause, LONGEST_PAUSE)


def is_waiting() -> bool:
    """Whether this thread waits for a storage that is away or silent.

    For a handler of signals, which is to raise then: nobody would look at a flag.
    """
    return time.monotonic() - getattr(_present, "began", math.inf) > SILENT_SECONDS


def is_passing(error: sa.exc.DBAPIError) -> bool:
    """Whether the same may succeed later."""
    original: Any = error.orig
    if isinstance(code := getattr(original, "sqlite_errorcode", None), int):
        return code & 0xFF in SQLITE_CODES
    if state := getattr(original, "sqlstate", None):
        return state in SQLSTATES or state.startswith(CONNECTION_CLASS)
    if not isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError):
        return False
    text = str(original)
    return FATAL not in text or any(phrase in text for phrase in PASSING)


def is_locked(error: sa.exc.DBAPIError) -> bool:
    """Whether another one's transaction is in the way."""
    original: Any = error.orig
    return hasattr(original, "sqlite_errorcode") or getattr(original, "sqlstate", "") == "55P03"


def detail(error: BaseException) -> str:
    """What a database says, in one line."""
    lines = [line.strip("- ") for line in str(getattr(error, "orig", error)).splitlines() if line]
    return lines[-1] if lines[0].startswith("Multiple connection attempts") else lines[0]


def _for_good(error: sa.exc.DBAPIError, place: str) -> Exception:
    """One line if it is the surroundings' doing; a wrong statement stays what it is."""
    wrong = getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR
    if not isinstance(error, sa.exc.OperationalError) or wrong:
        return error
    return unusable(error, place)


def unusable(error: Exception, place: str) -> StorageError:
    """What is said of a database that does not come back by itself."""
    return StorageError(
        f"storage {place} cannot be used: {detail(error)}: mend that or set another `storage`"
        " in machine.yaml, then the same command goes on"
    )
