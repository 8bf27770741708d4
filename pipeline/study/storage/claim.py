"""Which part of a trial a worker gets, within one transaction: the rules of succession."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from pipeline.results.states import State
from pipeline.settings.hyperparameters import Value
from pipeline.study.storage.arithmetic import refuse_another
from pipeline.study.storage.engine import is_sqlite, milliseconds
from pipeline.study.storage.schema import STUDIES, TRIALS, arithmetic_key
from pipeline.study.storage.transitions import FAIL_KILLER, TAKE_OVER

MAX_STRIKES = 3
PLANNED = ("number", "trial", "since", "until", "starts", "follows", "cost")
GIVEN = "given"  # in place of the id of a wish
FARTHEST_SECONDS = 120.0  # no lease ends later: the clock was set back since


@dataclass(frozen=True)
class Lease:
    """The right to write one part of a trial."""

    study: str
    number: int
    token: int
    trial: int
    since: int
    until: int | None  # None: the last epoch of the study
    parameters: dict[str, Value]
    curve: list[dict[str, Any]]  # the epochs that earlier holders have reported


@dataclass(frozen=True)
class Plan:
    """A part that nobody has begun yet; see `study.search.plan` and `study.confirmation.race`.

    Those of candidates have no place on a clock: they start at 0 and cost nothing.
    """

    number: int
    trial: int
    since: int
    until: int
    starts: int
    follows: int | None
    cost: int
    parameters: dict[str, Value]
    curve: list[dict[str, Any]]  # of the trial so far
    reopened: int  # how often the study had been re-opened when this was planned


class Reopened(Exception):
    """The study was re-opened since: what was planned for it no longer counts."""


@dataclass(frozen=True)
class Claimant:
    """A worker, as far as a claim names it."""

    owner: str
    meta: dict[str, Any] = field(default_factory=dict)  # what its parts record of their origin
    mixed: bool = False  # whether it may join trials that were computed with other arithmetic


@dataclass(frozen=True)
class Claim:
    """A worker's wish for a part of a study, at the time `now` on the storage's clock.

    `id` is the wish's own: asked again after a lost answer, it is recognised. Leases that end
    before `forgiven` could not be renewed while the server was away, and still count.
    """

    id: str
    study: str
    who: Claimant
    now: float
    expires: float
    forgiven: float = 0.0
    gives: bool = False  # whether the claimant is another one, who has yet to fetch what it gets

    def abandoned(
        self, db: sa.Connection, budget: int, among: Collection[int] | None = None
    ) -> Lease | None:
        """What this claim has got already, else a part below `budget` (or one of these) that nobody
        works on. Raises OtherArithmetic."""
        if own := self._open(db):
            return own
        for row in _abandoned(db, self.study, budget, self.now, self.forgiven):
            if among is not None and row.number not in among:
                continue
            # A lease that ran out is no strike: nobody has seen that the trial killed its holder.
            if row.strikes >= MAX_STRIKES:
                _fail_killer(db, row, self.now)
            elif lease := self._take_over(db, row):
                return lease
        return None

    def given(self, db: sa.Connection) -> Lease | None:
        """The part that another worker has begun for this one. Raises OtherArithmetic.

        Nobody has to wait for that: the giver's own part is in the study already.
        """
        if own := _granted(db, self.study, self.id):
            return _lease(own, own.token)
        self._refuse(db)
        this = (TRIALS.c.owner == self.who.owner) & (TRIALS.c.claim == GIVEN)
        query = sa.select(TRIALS).where(
            TRIALS.c.study == self.study, TRIALS.c.state == State.RUNNING, this
        )
        row = db.execute(query.order_by(TRIALS.c.number)).first()
        return self._take_over(db, row) if row else None

    def begin(self, db: sa.Connection, plan: Plan) -> Lease | None:
        """The planned part, unless somebody has begun it. Raises OtherArithmetic and Reopened."""
        if own := self._open(db):
            return own
        study = sa.select(STUDIES.c.reopened).where(STUDIES.c.id == self.study)
        if db.execute(study).scalar_one() != plan.reopened:
            raise Reopened(self.study)
        this = (TRIALS.c.study == self.study) & (TRIALS.c.number == plan.number)
        there = db.execute(sa.select(TRIALS.c.token, TRIALS.c.starts).where(this)).first()
        if there is not None and there.starts is not None:
            return None
        row = {
            **{name: getattr(plan, name) for name in PLANNED},
            "parameters": json.dumps(plan.parameters),
            "curve": json.dumps(plan.curve),
            "epochs": plan.since,
        }
        token = 1 if there is None else there.token + 1
        if there is None:
            row |= {"study": self.study, "state": State.RUNNING, **self._holder()}
            db.execute(sa.insert(TRIALS).values(**row, started_ms=milliseconds(self.now)))
        else:  # it was re-opened
            db.execute(sa.update(TRIALS).where(this).values(**row, **self._holder(), token=token))
        return Lease(self.study, plan.number, token, plan.trial, plan.since, plan.until,
                     plan.parameters, plan.curve)  # fmt: skip

    def _open(self, db: sa.Connection) -> Lease | None:
        """Locks the study; what this claim has got already."""
        lock_study(db, self.study)
        if own := _granted(db, self.study, self.id):
            return _lease(own, own.token)
        self._refuse(db)
        return None

    def _refuse(self, db: sa.Connection) -> None:
        if "arithmetic" in self.who.meta and not self.who.mixed:
            refuse_another(db, self.study, self.who.meta["arithmetic"])

    def _take_over(self, db: sa.Connection, row: Any) -> Lease | None:
        change = TAKE_OVER.change(row)
        return _lease(row, change["token"]) if _set(db, row, **self._holder(), **change) else None

    def _holder(self) -> dict[str, Any]:
        return {"owner": self.who.owner, "claim": GIVEN if self.gives else self.id,
                "expires": self.expires, "meta": json.dumps(self.who.meta),
                "arithmetic": arithmetic_key(self.who.meta)}  # fmt: skip


def _lease(row: Any, token: int) -> Lease:
    return Lease(row.study, row.number, token, row.trial, row.since, row.until,
                 json.loads(row.parameters), json.loads(row.curve))  # fmt: skip


def lock_study(db: sa.Connection, study: str) -> None:
    """Serializes claims of one study (SQLite's write lock does it already)."""
    if not is_sqlite(db):
        db.execute(sa.select(STUDIES.c.id).where(STUDIES.c.id == study).with_for_update())


def _granted(db: sa.Connection, study: str, claim: str) -> Any:
    query = sa.select(TRIALS).where(
        TRIALS.c.study == study, TRIALS.c.state == State.RUNNING, TRIALS.c.claim == claim
    )
    return db.execute(query).first()


def _abandoned(
    db: sa.Connection, study: str, budget: int, now: float, forgiven: float
) -> Sequence[Any]:
    query = sa.select(TRIALS).where(
        TRIALS.c.study == study,
        TRIALS.c.state == State.RUNNING,
        TRIALS.c.number < budget,
        TRIALS.c.starts.is_not(None),
        (TRIALS.c.expires <= now) | (TRIALS.c.expires > now + FARTHEST_SECONDS),
        TRIALS.c.owner.is_(None) | (TRIALS.c.expires >= forgiven),
    )
    return db.execute(query.order_by(TRIALS.c.number)).all()


def _fail_killer(db: sa.Connection, row: Any, now: float) -> None:
    reason = f"killed {MAX_STRIKES} workers before it got any farther: it crashes, or is too large"
    _set(
        db,
        row,
        state=State.FAILED,
        reason=reason,
        owner=None,
        epochs=len(json.loads(row.curve)),
        finished_ms=milliseconds(now),
        **FAIL_KILLER.change(row),
    )


def _set(db: sa.Connection, row: Any, **values: Any) -> bool:
    """Changes a trial that is as it was read; False: meanwhile its holder was heard of after all,
    or another one has released it."""
    done = db.execute(
        sa.update(TRIALS)
        .where(
            TRIALS.c.study == row.study,
            TRIALS.c.number == row.number,
            TRIALS.c.token == row.token,
            TRIALS.c.state == State.RUNNING,
            TRIALS.c.expires == row.expires,
        )
        .values(**values)
    )
    return done.rowcount == 1
