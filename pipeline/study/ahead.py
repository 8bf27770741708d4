"""Who plans the next parts of a search: one worker at a time, for all that wait for one.

Whoever plans comes to the same, so nobody has to keep to this. It spares the others the work: when
the end of one part lets many begin, each of those who wait would propose all of them. A worker that
has the turn begins a part for itself, and one for each of the others, who only look whether they
were given any. When it dies or takes too long, its turn runs out, and the next worker plans. A part
that is not fetched in time is anyone's.
"""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from pipeline.results.states import State
from pipeline.study.claim import FARTHEST_SECONDS, GIVEN
from pipeline.study.ledger import LEASE_SECONDS, Ledger
from pipeline.study.schema import TRIALS, TURNS, WORKERS
from pipeline.study.storage import clock, clock_column, is_sqlite


class Planning(NamedTuple):
    """What who has the turn needs to know."""

    workers: list[str]  # of the sweep that are there, and are to work
    begun: int  # parts


def may_plan(ledger: Ledger, study: str, sweep: str, owner: str, seconds: float) -> Planning | None:
    """Takes the turn to plan parts of a study for so many seconds; None: it is another's."""
    row, there, name = TURNS.c, WORKERS.c, _name(study)

    def take(db: sa.Connection) -> Planning | None:
        now = clock(db)
        dialect = sqlite if is_sqlite(db) else postgresql
        values = {"owner": owner, "expires": now + seconds}
        over = (row.expires <= now) | (row.expires > now + FARTHEST_SECONDS)
        turn = (
            dialect.insert(TURNS)
            .values(name=name, **values)
            .on_conflict_do_update(
                index_elements=[row.name], set_=values, where=over | (row.owner == owner)
            )
        )
        if db.execute(turn.returning(row.owner)).first() is None:
            return None
        workers = sa.select(there.owner).where(
            there.sweep == sweep,
            there.code.is_(None),
            there.wish.is_(None),
            there.seen > now - LEASE_SECONDS,
        )
        last = sa.select(sa.func.max(TRIALS.c.number)).where(TRIALS.c.study == study)
        number = db.execute(last).scalar()
        begun = 0 if number is None else number + 1
        return Planning(list(db.execute(workers.order_by(there.since_ms)).scalars()), begun)

    return ledger.write(take)


def is_wanted(ledger: Ledger, study: str, owner: str) -> bool:
    """Whether a worker that waits has anything to do: a part was given to it or is anyone's, or
    nobody has the turn to plan. One short statement, which reads no part."""
    row, turn = TRIALS.c, TURNS.c

    def read(db: sa.Connection) -> bool:
        now = clock_column(db)
        mine = (row.owner == owner) & (row.claim == GIVEN)
        free = row.owner.is_(None) | (row.expires <= now)
        open_ = (row.study == study) & (row.state == State.RUNNING) & row.starts.is_not(None)
        part = sa.exists().where(open_, mine | free)
        held = sa.exists().where(
            turn.name == _name(study),
            turn.expires > now,
            turn.expires < now + FARTHEST_SECONDS,
        )
        return bool(db.execute(sa.select(part | ~held)).scalar_one())

    return ledger.read(read)


def has_planned(ledger: Ledger, study: str, owner: str) -> None:
    """Gives the turn up, if it is still one's own."""
    mine = (TURNS.c.name == _name(study)) & (TURNS.c.owner == owner)
    ledger.write(lambda db: db.execute(sa.delete(TURNS).where(mine)))


def _name(study: str) -> str:
    return f"plan {study}"
