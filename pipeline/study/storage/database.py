"""The ledger's database for all who read or write it: a connection or a transaction a call."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Self, TypeVar

import sqlalchemy as sa

from pipeline.study.storage.engine import blocker, clock, masked, open_storage, transaction
from pipeline.study.storage.outages import PATIENCE_SECONDS, keep_trying

T = TypeVar("T")


class Database:
    """Each process opens its own; threads may share one. What `write` returned is on the storage.

    A storage that is away or locked is waited for: what is read or written is tried again for
    `patience` seconds, which is why it must come to the same when it is done twice (a connection
    may be lost between a commit and its answer). After that, StorageAway; StorageError for what
    does not pass by itself: one line each. OSError when the disk is full.
    """

    def __init__(self, url: str, *, patience: float = PATIENCE_SECONDS):
        """Opens `url` (SQLAlchemy form) and creates the tables if need be. Raises StorageError."""
        self._engine = open_storage(url, patience)
        self._patience = patience
        self._first: Callable[[], None] | None = None

    def close(self) -> None:
        """Closes the connections."""
        self._engine.dispose()

    def impatient(self, seconds: float = 0.0) -> Self:
        """The same for who looks again anyway: it waits for nothing, or not for long."""
        other = copy.copy(self)
        other._patience = seconds
        return other

    def saving(self, save: Callable[[], None]) -> Self:
        """The same, which calls `save` before it begins to wait for the storage."""
        other = copy.copy(self)
        other._first = save
        return other

    @property
    def address(self) -> str:
        """Its URL, without passwords."""
        return masked(self._engine.url)

    def now(self) -> float:
        """The time in seconds on the clock that leases are measured by."""
        return self.read(clock)

    def rows(self, query: sa.Select[Any]) -> list[Any]:
        """What a query finds."""
        return self.read(lambda db: list(db.execute(query)))

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        """What the statements of `work` find, in one connection."""

        def read() -> T:
            with self._engine.connect() as db:
                return work(db)

        return self._persist(read)

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        """Does `work` in one transaction."""

        def write() -> T:
            with transaction(self._engine) as db:
                return work(db)

        return self._persist(write)

    def _persist(self, work: Callable[[], T]) -> T:
        return keep_trying(
            work,
            self.address,
            seconds=self._patience,
            first=self._first,
            blocker=lambda: blocker(self._engine),
        )
