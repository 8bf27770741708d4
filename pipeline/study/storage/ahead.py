"""Who plans the next parts of a search: one worker at a time, for all that wait for one.

Whoever plans comes to the same, so nobody has to keep to this. It spares the others the work: when
the end of one part lets many begin, each of those who wait would propose all of them. A worker that
finds that a part can begin takes the turn to plan, begins one for itself, and one for each of the
others. Of those who wait one has the turn to watch the search; the others only look whether they
were given a part, or are wanted. A turn whose holder dies or takes too long runs out, and a part
that is not fetched in time is anyone's.
"""

from __future__ import annotations

import time

import sqlalchemy as sa

from pipeline.results.states import State
from pipeline.study.storage.claim import FARTHEST_SECONDS, GIVEN
from pipeline.study.storage.engine import clock, clock_column
from pipeline.study.storage.ledger import LEASE_SECONDS, Ledger
from pipeline.study.storage.schema import STUDIES, TRIALS, TURNS, WORKERS
from pipeline.study.storage.turn import leave_turn, take_free

TURN_SECONDS = 5.0
PLAN, WATCH = "plan", "watch"


class Turn:
    """A worker's turn to plan or to watch a study, if it has it."""

    def __init__(self, ledger: Ledger, what: str, study: str, owner: str):
        self._ledger, self._study, self._owner = ledger, study, owner
        self._name = _name(what, study)
        self._ends = 0.0  # by `time.monotonic`; 0: it has none
        self.seconds = TURN_SECONDS

    @property
    def held(self) -> bool:
        """Whether it was taken, and not left."""
        return self._ends > 0

    def keep(self) -> int | None:
        """Takes it, or goes on with it; how many parts the study has. None: it is another's."""
        now = time.monotonic()

        def take(db: sa.Connection) -> int | None:
            if not take_free(db, self._name, self._owner, self.seconds):
                return None
            last = sa.select(sa.func.max(TRIALS.c.number)).where(TRIALS.c.study == self._study)
            number = db.execute(last).scalar()
            return 0 if number is None else number + 1

        begun = self._ledger.write(take)
        self._ends = 0.0 if begun is None else now + self.seconds
        return begun

    @property
    def lasts(self) -> bool:
        """Whether half of its time is left."""
        return time.monotonic() < self._ends - self.seconds / 2

    def leave(self) -> None:
        """Gives it up, if it is still one's own."""
        if self.held:
            self._ends = 0.0
            leave_turn(self._ledger, self._name, self._owner)


def workers_there(ledger: Ledger, sweep: str) -> list[str]:
    """The workers of a sweep that are to work and have none, in any of its studies; last who was
    seen first: it will look soon."""
    there, row = WORKERS.c, TRIALS.c

    def read(db: sa.Connection) -> list[str]:
        now = clock(db)
        studies = sa.select(STUDIES.c.id).where(STUDIES.c.name == sweep)
        held = sa.select(row.owner).where(
            row.study.in_(studies), row.state == State.RUNNING, row.expires > now,
            row.owner.is_not(None),
        )  # fmt: skip
        found = sa.select(there.owner).where(
            there.sweep == sweep, there.code.is_(None), there.wish.is_(None),
            there.seen > now - LEASE_SECONDS, there.owner.not_in(held),
        )  # fmt: skip
        return list(db.execute(found.order_by(there.seen.desc())).scalars())

    return ledger.read(read)


def is_wanted(ledger: Ledger, study: str, owner: str) -> bool:
    """Whether a worker that waits has anything to do: a part was given to it or is anyone's, or
    nobody watches. One short statement, which reads no part."""
    row, turn = TRIALS.c, TURNS.c

    def read(db: sa.Connection) -> bool:
        now = clock_column(db)
        mine = (row.owner == owner) & (row.claim == GIVEN)
        free = row.owner.is_(None) | (row.expires <= now)
        open_ = (row.study == study) & (row.state == State.RUNNING) & row.starts.is_not(None)
        lasts = (turn.expires > now) & (turn.expires < now + FARTHEST_SECONDS)
        watched = sa.exists().where((turn.name == _name(WATCH, study)) & lasts)
        part = sa.exists().where(open_, mine | free)
        return bool(db.execute(sa.select(part | ~watched)).scalar_one())

    return ledger.read(read)


def _name(what: str, study: str) -> str:
    return f"{what} {study}"
