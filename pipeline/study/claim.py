"""Which trial a worker gets, within one transaction: the rules of succession and of order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from pipeline.hyperparameters import Value
from pipeline.study.storage import STUDIES, TRIALS, is_sqlite, milliseconds

MAX_STRIKES = 3


@dataclass(frozen=True)
class Lease:
    """The right to write one trial."""

    study: str
    number: int
    token: int
    parameters: dict[str, Value] | None  # None: not proposed yet
    curve: list[dict[str, Any]]  # the epochs that earlier holders have reported


@dataclass(frozen=True)
class Claim:
    """A worker's wish for a trial of a study, at the time `now` on the storage's clock."""

    study: str
    budget: int
    parallelism: int
    owner: str
    meta: dict[str, Any]
    now: float
    expires: float

    def grant(self, db: sa.Connection) -> Lease | None:
        """An abandoned trial, else a new one if there may be one."""
        _lock_study(db, self.study)
        for row in _abandoned(db, self.study, self.budget, self.now):
            # A lease that ran out is a strike; a trial that was released has got its own.
            strikes = row.strikes + (1 if row.owner else 0)
            if strikes < MAX_STRIKES:
                return self._take_over(db, row, strikes)
            _fail_killer(db, row, self.now)
        number, oldest = _next_number(db, self.study), _oldest_running(db, self.study)
        if number >= self.budget or (oldest is not None and number - oldest >= self.parallelism):
            return None
        return self._start(db, number)

    def _take_over(self, db: sa.Connection, row: Any, strikes: int) -> Lease:
        token = row.token + 1
        _set(db, row, **self._holder(), token=token, strikes=strikes)
        parameters = json.loads(row.parameters) if row.parameters else None
        return Lease(row.study, row.number, token, parameters, json.loads(row.curve))

    def _start(self, db: sa.Connection, number: int) -> Lease:
        row = {"study": self.study, "number": number, "state": "running"}
        db.execute(
            sa.insert(TRIALS).values(**row, **self._holder(), started_ms=milliseconds(self.now))
        )
        return Lease(self.study, number, 1, None, [])

    def _holder(self) -> dict[str, Any]:
        return {"owner": self.owner, "expires": self.expires, "meta": json.dumps(self.meta)}


def _lock_study(db: sa.Connection, study: str) -> None:
    """Serializes claims of one study (SQLite's write lock does it already)."""
    if not is_sqlite(db):
        db.execute(sa.select(STUDIES.c.id).where(STUDIES.c.id == study).with_for_update())


def _abandoned(db: sa.Connection, study: str, budget: int, now: float) -> Sequence[Any]:
    query = sa.select(TRIALS).where(
        TRIALS.c.study == study,
        TRIALS.c.state == "running",
        TRIALS.c.number < budget,
        TRIALS.c.expires <= now,
    )
    return db.execute(query.order_by(TRIALS.c.number)).all()


def _fail_killer(db: sa.Connection, row: Any, now: float) -> None:
    reason = f"killed {MAX_STRIKES} workers before it got any farther (out of memory?)"
    _set(
        db,
        row,
        state="failed",
        reason=reason,
        owner=None,
        epochs=len(json.loads(row.curve)),
        token=row.token + 1,
        finished_ms=milliseconds(now),
    )


def _set(db: sa.Connection, row: Any, **values: Any) -> None:
    this = (TRIALS.c.study == row.study) & (TRIALS.c.number == row.number)
    db.execute(sa.update(TRIALS).where(this).values(**values))


def _next_number(db: sa.Connection, study: str) -> int:
    last = db.execute(sa.select(sa.func.max(TRIALS.c.number)).where(TRIALS.c.study == study))
    highest = last.scalar_one()
    return 0 if highest is None else highest + 1


def _oldest_running(db: sa.Connection, study: str) -> int | None:
    running = (TRIALS.c.study == study) & (TRIALS.c.state == "running")
    return db.execute(sa.select(sa.func.min(TRIALS.c.number)).where(running)).scalar_one()
