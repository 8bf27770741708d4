"""The durable record of all trials and of who works on them, in SQLite or PostgreSQL.

A worker holds a *lease* on its trial: a fencing token and a time of expiry. Every write names the
token in the same statement that changes the row, so a worker whose trial was taken over (it was
paused past its lease, say) changes nothing more and gets `LeaseLost`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from pipeline.config import Machine
from pipeline.errors import UserError
from pipeline.hyperparameters import Value
from pipeline.paths import Paths

LEASE_SECONDS = 60.0
MAX_STRIKES = 3

Record = dict[str, Any]  # one epoch: epoch, nelbo_nats, recon_nats, kl_nats, ...

_schema = sa.MetaData()
_studies = sa.Table(
    "studies",
    _schema,
    sa.Column("id", sa.String(120), primary_key=True),
    sa.Column("name", sa.String(64), index=True, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
)
_trials = sa.Table(
    "trials",
    _schema,
    sa.Column("study", sa.String(120), sa.ForeignKey("studies.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("parameters", sa.Text),
    sa.Column("curve", sa.Text, nullable=False, server_default="[]"),
    sa.Column("result", sa.Text),
    sa.Column("reason", sa.Text),
    sa.Column("meta", sa.Text, nullable=False, server_default="{}"),
    sa.Column("owner", sa.String(200)),
    sa.Column("token", sa.Integer, nullable=False, server_default="1"),
    sa.Column("expires", sa.Float, nullable=False, server_default="0"),
    sa.Column("strikes", sa.Integer, nullable=False, server_default="0"),
    sa.Column("started_ms", sa.BigInteger, nullable=False),
    sa.Column("finished_ms", sa.BigInteger),
    sa.Index("trials_by_state", "study", "state", "number"),
)


class LeaseLost(Exception):
    """Another worker has taken this trial over; what this one computes no longer counts."""


@dataclass(frozen=True)
class Lease:
    """The right to write one trial."""

    study: str
    number: int
    token: int
    parameters: dict[str, Value] | None  # None: not proposed yet


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
        try:
            self._engine = _engine(url)
            with self._write() as db:
                _schema.create_all(db)
        except (sa.exc.SQLAlchemyError, ImportError) as error:
            shown = sa.make_url(url).render_as_string() if "://" in url else url
            detail = str(getattr(error, "orig", error)).splitlines()[0]
            raise UserError(
                f"storage {shown} cannot be opened: {detail}: correct `storage` in machine.yaml"
            ) from None

    def open_study(self, study: str, name: str, kind: str, spec: dict[str, Any]) -> None:
        """Registers a study; an existing one stays as it is."""
        row = {"id": study, "name": name, "kind": kind, "spec": json.dumps(spec)}
        with self._write() as db:
            known = db.execute(sa.select(_studies.c.id).where(_studies.c.id == study)).first()
            if not known:
                _insert_once(db, _studies, {**row, "created_ms": _ms(time.time())})

    def studies(self, name: str, kind: str) -> dict[str, dict[str, Any]]:
        """The specifications of the studies of a sweep, oldest first."""
        query = sa.select(_studies.c.id, _studies.c.spec).where(
            _studies.c.name == name, _studies.c.kind == kind
        )
        with self._engine.connect() as db:
            rows = db.execute(query.order_by(_studies.c.created_ms, _studies.c.id))
            return {row.id: json.loads(row.spec) for row in rows}

    def claim(
        self, study: str, *, budget: int, parallelism: int, owner: str, meta: dict[str, Any]
    ) -> Lease | None:
        """The next trial to work on: an abandoned one, else a new number below `budget`.

        Trial n may start when all trials ≤ n - parallelism are finished. None: nothing can be
        claimed now; see `finished`.
        """
        with self._write() as db:
            _lock_study(db, study)
            now = _now(db)
            running = db.execute(
                sa.select(_trials)
                .where(_trials.c.study == study, _trials.c.state == "running")
                .order_by(_trials.c.number)
            ).all()
            for row in running:
                if row.number >= budget or row.expires > now:
                    continue
                if row.strikes >= MAX_STRIKES:
                    self._fail_killer(db, row, now)
                    continue
                return _take_over(db, row, owner, now, meta)
            number = _next_number(db, study)
            oldest = min((row.number for row in running), default=number)
            if number >= budget or number - oldest >= parallelism:
                return None
            db.execute(
                sa.insert(_trials).values(
                    study=study,
                    number=number,
                    state="running",
                    owner=owner,
                    expires=now + LEASE_SECONDS,
                    meta=json.dumps(meta),
                    started_ms=_ms(now),
                )
            )
            return Lease(study, number, 1, None)

    def propose(self, lease: Lease, parameters: dict[str, Value]) -> None:
        """Records the parameters of a claimed trial. Raises LeaseLost."""
        self._update(lease, parameters=json.dumps(parameters))

    def report(self, lease: Lease, curve: list[Record]) -> None:
        """Records all epochs so far and renews the lease. Raises LeaseLost."""
        self._update(lease, curve=json.dumps(curve), strikes=0)

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
            result=json.dumps(result) if result is not None else None,
            reason=reason,
            finished_ms=_ms(time.time()),
            owner=None,
        )

    def release(self, owner: str, *, blameless: bool) -> None:
        """Gives up whatever `owner` holds, so that it can be claimed at once.

        A death that may be the trial's own doing counts as a strike against it; an end that was
        asked for (`blameless`) does not.
        """
        strikes = _trials.c.strikes + (0 if blameless else 1)
        held = (_trials.c.owner == owner) & (_trials.c.state == "running")
        with self._write() as db:
            db.execute(
                sa.update(_trials)
                .where(held)
                .values(owner=None, expires=0, strikes=strikes, token=_trials.c.token + 1)
            )

    def owners(self) -> list[str]:
        """Everyone who holds a trial."""
        query = sa.select(_trials.c.owner).where(
            _trials.c.state == "running", _trials.c.owner.is_not(None)
        )
        with self._engine.connect() as db:
            return sorted({row.owner for row in db.execute(query)})

    def trials(self, study: str, first: int = 0, last: int | None = None) -> list[Trial]:
        """The trials first..last (inclusive) in order."""
        query = sa.select(_trials).where(_trials.c.study == study, _trials.c.number >= first)
        if last is not None:
            query = query.where(_trials.c.number <= last)
        with self._engine.connect() as db:
            return [_trial(row) for row in db.execute(query.order_by(_trials.c.number))]

    def finished(self, study: str, budget: int) -> int:
        """How many trials below `budget` are complete, pruned or failed."""
        query = sa.select(sa.func.count()).where(
            _trials.c.study == study, _trials.c.number < budget, _trials.c.state != "running"
        )
        with self._engine.connect() as db:
            return db.execute(query).scalar_one()

    def _update(self, lease: Lease, **values: Any) -> None:
        with self._write() as db:
            done = db.execute(
                sa.update(_trials)
                .where(
                    _trials.c.study == lease.study,
                    _trials.c.number == lease.number,
                    _trials.c.token == lease.token,
                    _trials.c.state == "running",
                )
                .values(expires=_now(db) + LEASE_SECONDS, **values)
            )
            if done.rowcount != 1:
                raise LeaseLost(f"trial {lease.number} of {lease.study} has another owner")

    def _fail_killer(self, db: sa.Connection, row: Any, now: float) -> None:
        reason = f"killed {MAX_STRIKES} workers in the same epoch (out of memory?)"
        db.execute(
            sa.update(_trials)
            .where(_trials.c.study == row.study, _trials.c.number == row.number)
            .values(
                state="failed", reason=reason, owner=None, token=row.token + 1, finished_ms=_ms(now)
            )
        )

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        """One transaction that holds the write lock from its start, so that it never upgrades."""
        with self._engine.connect() as db:
            if db.dialect.name == "sqlite":
                db.exec_driver_sql("BEGIN IMMEDIATE")
            yield db
            db.commit()


def storage_url(machine: Machine, paths: Paths) -> str:
    """Where the ledger is: machine.yaml's URL or the SQLite file under runs/state."""
    if machine.storage:
        return machine.storage
    paths.ledger.parent.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{paths.ledger}"


def _take_over(db: sa.Connection, row: Any, owner: str, now: float, meta: dict[str, Any]) -> Lease:
    # An owner that let its lease run out gets a strike; one that was released has got its own.
    strikes = row.strikes + (1 if row.owner else 0)
    db.execute(
        sa.update(_trials)
        .where(_trials.c.study == row.study, _trials.c.number == row.number)
        .values(
            owner=owner,
            token=row.token + 1,
            strikes=strikes,
            expires=now + LEASE_SECONDS,
            meta=json.dumps(meta),
        )
    )
    parameters = json.loads(row.parameters) if row.parameters else None
    return Lease(row.study, row.number, row.token + 1, parameters)


def _engine(url: str) -> sa.Engine:
    if url.startswith("postgresql://"):
        url = url.replace("postgresql://", "postgresql+psycopg://", 1)
    if not url.startswith("sqlite"):
        return sa.create_engine(url, pool_pre_ping=True)
    engine = sa.create_engine(url, connect_args={"timeout": 60})

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions begin where `_write` says
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    return engine


def _lock_study(db: sa.Connection, study: str) -> None:
    """Serializes claims of one study (SQLite's write lock does it already)."""
    if db.dialect.name != "sqlite":
        db.execute(sa.select(_studies.c.id).where(_studies.c.id == study).with_for_update())


def _now(db: sa.Connection) -> float:
    """The clock that leases are measured by: one for all hosts of a PostgreSQL storage."""
    if db.dialect.name == "sqlite":
        return time.time()
    return float(db.execute(sa.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())


def _next_number(db: sa.Connection, study: str) -> int:
    last = db.execute(sa.select(sa.func.max(_trials.c.number)).where(_trials.c.study == study))
    highest = last.scalar_one()
    return 0 if highest is None else highest + 1


def _insert_once(db: sa.Connection, table: sa.Table, row: dict[str, Any]) -> None:
    """Inserts unless another host was faster."""
    from sqlalchemy.dialects import postgresql, sqlite

    dialect = sqlite if db.dialect.name == "sqlite" else postgresql
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


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
