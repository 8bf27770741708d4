"""The durable record of all trials and of who works on them, in SQLite or PostgreSQL.

A worker holds a *lease* on its trial: a fencing token and a time of expiry. Every write names the
token in the same statement that changes the row, so a worker whose trial was taken over (it was
paused past its lease, say) changes nothing more and gets `LeaseLost`.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from pipeline.hyperparameters import Value
from pipeline.machine import Machine
from pipeline.paths import Paths
from pipeline.study.budget import admitted
from pipeline.study.claim import Claim, Lease
from pipeline.study.identity import Study
from pipeline.study.storage import (
    STUDIES,
    TRIALS,
    clock,
    is_sqlite,
    milliseconds,
    open_storage,
    transaction,
)

LEASE_SECONDS = 60.0

Mark = tuple[int, str, int]  # of a trial: token, state, most epochs ever reported
Record = dict[str, Any]  # one epoch: epoch, nelbo_nats, recon_nats, kl_nats, ...


class LeaseLost(Exception):
    """Another worker has taken this trial over; what this one computes no longer counts."""


@dataclass(frozen=True)
class Trial:
    """A row of the ledger. `state` is running, complete, pruned or failed."""

    study: str
    number: int
    state: str
    parameters: dict[str, Value] | None
    curve: list[Record]
    result: Record | None
    reason: str | None
    meta: dict[str, Any]
    owner: str | None
    expires: float
    strikes: int
    started_ms: int
    finished_ms: int | None


class Ledger:
    """All studies of one storage. Each process opens its own; threads may share one."""

    def __init__(self, url: str):
        """Opens `url` (SQLAlchemy form) and creates the tables if need be. Raises UserError."""
        self._engine = open_storage(url)

    def close(self) -> None:
        """Closes the connections."""
        self._engine.dispose()

    def now(self) -> float:
        """The time in seconds on the clock that leases are measured by."""
        with self._engine.connect() as db:
            return clock(db)

    def open_study(self, study: str, name: str, kind: str, spec: dict[str, Any]) -> None:
        """Registers a study; an existing one stays as it is."""
        row = {"id": study, "name": name, "kind": kind, "spec": json.dumps(spec)}
        with self._write() as db:
            known = db.execute(sa.select(STUDIES.c.id).where(STUDIES.c.id == study)).first()
            if not known:
                _insert_once(db, STUDIES, {**row, "created_ms": milliseconds(clock(db))})

    def studies(self, name: str, kind: str) -> dict[str, dict[str, Any]]:
        """The specifications of the studies of a sweep, oldest first."""
        query = sa.select(STUDIES.c.id, STUDIES.c.spec).where(
            STUDIES.c.name == name, STUDIES.c.kind == kind
        )
        with self._engine.connect() as db:
            rows = db.execute(query.order_by(STUDIES.c.created_ms, STUDIES.c.id))
            return {row.id: json.loads(row.spec) for row in rows}

    def created_ms(self, study: str) -> int:
        """When a study was opened: with its name, what tells it from the same one elsewhere."""
        query = sa.select(STUDIES.c.created_ms).where(STUDIES.c.id == study)
        with self._engine.connect() as db:
            return db.execute(query).scalar_one()

    def marks(self, study: str) -> dict[int, Mark]:
        """What moves whenever a trial does, by number: token, state, epochs. Reads no curve."""
        row = TRIALS.c
        query = sa.select(row.number, row.token, row.state, row.epochs).where(row.study == study)
        with self._engine.connect() as db:
            rows = db.execute(query.order_by(row.number))
            return {each.number: (each.token, each.state, each.epochs) for each in rows}

    def claim(
        self, study: str, *, budget: int, parallelism: int, owner: str, meta: dict[str, Any]
    ) -> Lease | None:
        """The next trial to work on: an abandoned one, else a new number below `budget`.

        Trial n may start when all trials ≤ n - parallelism are finished. None: nothing can be
        claimed now; see `finished`.
        """
        with self._write() as db:
            now = clock(db)
            claim = Claim(study, budget, parallelism, owner, meta, now, now + LEASE_SECONDS)
            return claim.grant(db)

    def propose(self, lease: Lease, parameters: dict[str, Value]) -> None:
        """Records the parameters of a claimed trial. Raises LeaseLost."""
        self._update(lease, parameters=json.dumps(parameters))

    def report(self, lease: Lease, curve: list[Record]) -> None:
        """Records all epochs so far and renews the lease. Raises LeaseLost.

        Only an epoch that was never reached before clears the strikes: a trial that is taken over
        reads earlier ones from its checkpoint or does them again, and then kills the next worker.
        """
        epochs, strikes = TRIALS.c.epochs, TRIALS.c.strikes
        farther = epochs < len(curve)
        self._update(
            lease,
            curve=json.dumps(curve),
            epochs=sa.case((farther, len(curve)), else_=epochs),
            strikes=sa.case((farther, 0), else_=strikes),
        )

    def renew(self, lease: Lease) -> None:
        """Renews the lease within a long epoch. Raises LeaseLost."""
        self._update(lease)

    def finish(
        self,
        lease: Lease,
        state: str,
        curve: list[Record],
        result: Record | None,
        reason: str | None = None,
    ) -> None:
        """Records the end of a trial: complete, pruned or failed. Raises LeaseLost."""
        self._update(
            lease,
            state=state,
            curve=json.dumps(curve),
            epochs=len(curve),
            result=json.dumps(result) if result is not None else None,
            reason=reason,
            owner=None,
        )

    def release(self, owner: str, *, blameless: bool) -> bool:
        """Gives up whatever `owner` holds, so that it can be claimed at once; False: nothing.

        A death that may be the trial's own doing counts as a strike against it; an end that was
        asked for (`blameless`) does not.
        """
        strikes = TRIALS.c.strikes + (0 if blameless else 1)
        held = (TRIALS.c.owner == owner) & (TRIALS.c.state == "running")
        with self._write() as db:
            done = db.execute(
                sa.update(TRIALS)
                .where(held)
                .values(owner=None, expires=0, strikes=strikes, token=TRIALS.c.token + 1)
            )
            return done.rowcount > 0

    def owners(self, study: str | None = None) -> list[str]:
        """Everyone who holds a trial, of one study or of any."""
        query = sa.select(TRIALS.c.owner).where(
            TRIALS.c.state == "running", TRIALS.c.owner.is_not(None)
        )
        if study:
            query = query.where(TRIALS.c.study == study)
        with self._engine.connect() as db:
            return sorted({row.owner for row in db.execute(query)})

    def trials(self, study: str, first: int = 0, last: int | None = None) -> list[Trial]:
        """The trials first..last (inclusive) in order."""
        query = sa.select(TRIALS).where(TRIALS.c.study == study, TRIALS.c.number >= first)
        if last is not None:
            query = query.where(TRIALS.c.number <= last)
        with self._engine.connect() as db:
            return [_trial(row) for row in db.execute(query.order_by(TRIALS.c.number))]

    def finished(self, study: str, budget: int) -> int:
        """How many trials below `budget` are complete, pruned or failed."""
        query = sa.select(sa.func.count()).where(
            TRIALS.c.study == study, TRIALS.c.number < budget, TRIALS.c.state != "running"
        )
        with self._engine.connect() as db:
            return db.execute(query).scalar_one()

    def admitted(self, study: Study) -> int:
        """How many trials surely belong to a study by now; see `pipeline.study.budget`."""
        return study.budget if study.total_epochs is None else admitted(study, self._used(study))

    def is_over(self, study: Study) -> bool:
        """Whether all trials that belong to a study are finished."""
        if study.total_epochs is None:
            return self.finished(study.id, study.budget) >= study.budget
        used = self._used(study)  # read once: a trial that ends may let another one in
        count = admitted(study, used)
        return len(used) >= count and None not in used[:count]

    def _used(self, study: Study) -> list[int | None]:
        """The epochs of all trials; None for those that are not finished."""
        columns = (TRIALS.c.state, TRIALS.c.epochs)
        query = sa.select(*columns).where(TRIALS.c.study == study.id).order_by(TRIALS.c.number)
        with self._engine.connect() as db:
            return [None if row.state == "running" else row.epochs for row in db.execute(query)]

    def _update(self, lease: Lease, **values: Any) -> None:
        with self._write() as db:
            now = clock(db)
            if "state" in values:
                values["finished_ms"] = milliseconds(now)
            done = db.execute(
                sa.update(TRIALS)
                .where(
                    TRIALS.c.study == lease.study,
                    TRIALS.c.number == lease.number,
                    TRIALS.c.token == lease.token,
                    TRIALS.c.state == "running",
                )
                .values(expires=now + LEASE_SECONDS, **values)
            )
            if done.rowcount != 1:
                raise LeaseLost(f"trial {lease.number} of {lease.study} has another owner")

    def _write(self) -> AbstractContextManager[sa.Connection]:
        return transaction(self._engine)


def storage_url(machine: Machine, paths: Paths) -> str:
    """Where the ledger is: machine.yaml's URL or the SQLite file under runs/state."""
    if machine.storage:
        return machine.storage
    paths.ledger.parent.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{paths.ledger}"


def _insert_once(db: sa.Connection, table: sa.Table, row: dict[str, Any]) -> None:
    """Inserts unless another host was faster."""
    from sqlalchemy.dialects import postgresql, sqlite

    dialect = sqlite if is_sqlite(db) else postgresql
    db.execute(dialect.insert(table).values(row).on_conflict_do_nothing())


def _trial(row: Any) -> Trial:
    return Trial(
        study=row.study,
        number=row.number,
        state=row.state,
        parameters=json.loads(row.parameters) if row.parameters else None,
        curve=json.loads(row.curve),
        result=json.loads(row.result) if row.result else None,
        reason=row.reason,
        meta=json.loads(row.meta),
        owner=row.owner,
        expires=row.expires,
        strikes=row.strikes,
        started_ms=row.started_ms,
        finished_ms=row.finished_ms,
    )
