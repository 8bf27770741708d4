"""Who works for a sweep, where, since when; what they are to do, and what is wished of them.

A wish is of all workers of a sweep (a column of its studies) or of one. Workers look at it whenever
they renew a lease, so they know of it within a third of one, wherever they are and whatever
started them.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from pipeline.study.storage.database import Database
from pipeline.study.storage.engine import clock, insert, milliseconds
from pipeline.study.storage.schema import JOBS, STUDIES, WORKERS

CANCEL = "cancel"  # save, give back the lease, and leave for good
PAUSE = "pause"  # save, give back the lease, and wait
KEPT_SECONDS = 7 * 86400.0  # who was not heard of for so long is forgotten


@dataclass
class Presence:
    """A worker's own row, and the wish that it last read there."""

    owner: str
    wish: str | None = None

    def note(self, db: sa.Connection, now: float) -> None:
        """Is seen, and reads the wish, in one statement. Who has no row is told nothing."""
        of_all = (
            sa.select(sa.func.max(STUDIES.c.wish))
            .where(STUDIES.c.name == WORKERS.c.sweep)
            .correlate(WORKERS)
            .scalar_subquery()
        )
        seen = sa.update(WORKERS).where(WORKERS.c.owner == self.owner).values(seen=now)
        self.wish = db.execute(seen.returning(sa.func.coalesce(WORKERS.c.wish, of_all))).scalar()


@dataclass(frozen=True)
class Present:
    """A row: a worker that is there, or was."""

    owner: str
    slurm: str | None
    since_ms: int
    seen: float  # on the clock of leases
    code: int | None  # that it left with; None: nobody has heard of its end
    said: str | None
    wish: str | None


def arrive(ledger: Database, presence: Presence, sweep: str, slurm: str | None) -> None:
    """Enters a worker, and reads what is wished of it."""

    def enter(db: sa.Connection) -> None:
        now, row = clock(db), WORKERS.c
        gone = (row.owner == presence.owner) | (row.seen < now - KEPT_SECONDS)
        db.execute(sa.delete(WORKERS).where(gone))
        mine = {"owner": presence.owner, "sweep": sweep, "slurm": slurm}
        db.execute(sa.insert(WORKERS).values(**mine, since_ms=milliseconds(now), seen=now))
        presence.note(db, now)

    ledger.write(enter)


def look(ledger: Database, presence: Presence) -> None:
    """What `Presence.note` does, for a worker that holds no lease."""
    ledger.write(lambda db: presence.note(db, clock(db)))


def depart(ledger: Database, owner: str, code: int, said: str | None = None) -> None:
    """Notes the end of a worker, by itself or by who has seen it."""
    this = (WORKERS.c.owner == owner) & WORKERS.c.code.is_(None)
    ledger.write(lambda db: db.execute(sa.update(WORKERS).where(this).values(code=code, said=said)))


def workers(ledger: Database, sweep: str) -> list[Present]:
    """All workers of a sweep that are known, those that have left too, oldest first."""
    names = [column for column in WORKERS.c if column.name != "sweep"]
    query = sa.select(*names).where(WORKERS.c.sweep == sweep)
    found = ledger.read(lambda db: db.execute(query.order_by(WORKERS.c.since_ms)).all())
    return [Present(**row._mapping) for row in found]


def wished(ledger: Database, sweep: str) -> str | None:
    """What is wished of all workers of a sweep."""
    query = sa.select(sa.func.max(STUDIES.c.wish)).where(STUDIES.c.name == sweep)
    return ledger.read(lambda db: db.execute(query).scalar())


def wish(ledger: Database, sweep: str, what: str | None) -> None:
    """Wishes something of all workers of a sweep, None: that they work.

    Who is cancelled stays so, whatever is wished of all later on.
    """

    def write(db: sa.Connection) -> None:
        studies = sa.update(STUDIES).where(STUDIES.c.name == sweep)
        db.execute(studies.values(wish=what))
        if what == CANCEL:
            there = (WORKERS.c.sweep == sweep) & WORKERS.c.code.is_(None)
            db.execute(sa.update(WORKERS).where(there).values(wish=CANCEL))

    ledger.write(write)


def resume_cancelled(ledger: Database, sweep: str) -> None:
    """Who gives a command to go on with a sweep no longer wishes that it ends."""
    if wished(ledger, sweep) == CANCEL:
        wish(ledger, sweep, None)


def send_away(ledger: Database, owner: str) -> None:
    """Cancels one worker: its job is over, and it may not know."""
    ledger.write(
        lambda db: db.execute(
            sa.update(WORKERS).where(WORKERS.c.owner == owner).values(wish=CANCEL)
        )
    )


def keep_job(ledger: Database, id_: str, sweep: str, content: str) -> None:
    """Keeps what workers are to do; what was kept under this id before is replaced."""

    def write(db: sa.Connection) -> None:
        new = {"sweep": sweep, "kept_ms": milliseconds(clock(db)), "content": content}
        row = insert(db, JOBS).values(id=id_, **new)  # one statement: hosts keep the same at once
        db.execute(row.on_conflict_do_update(index_elements=[JOBS.c.id], set_=new))

    ledger.write(write)


def find_job(ledger: Database, name: str) -> str | None:
    """The content of the job with this id, or of the latest one of the sweep with this name."""
    row = JOBS.c
    query = sa.select(row.content).where((row.id == name) | (row.sweep == name))
    return ledger.read(lambda db: db.execute(query.order_by(row.kept_ms.desc())).scalar())


def jobs(ledger: Database, sweep: str) -> list[str]:
    """The ids of all jobs of a sweep."""
    query = sa.select(JOBS.c.id).where(JOBS.c.sweep == sweep)
    return ledger.read(lambda db: list(db.execute(query).scalars()))
