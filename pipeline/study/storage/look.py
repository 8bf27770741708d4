"""One cheap look at a study: only what is new or has moved is read in full.

Everyone who works on a study or shows it looks again and again, in all at as many rows as there are
parts at work. Of those a look reads six short columns; curves, parameters and the rest of a row
are read when it has come, moved an epoch or ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from pipeline.results.states import State
from pipeline.study.storage.claim import FARTHEST_SECONDS
from pipeline.study.storage.database import Database
from pipeline.study.storage.engine import clock_column
from pipeline.study.storage.rows import Part, part_of
from pipeline.study.storage.schema import STUDIES, TRIALS


@dataclass(frozen=True)
class Look:
    """What was seen of a study."""

    reopened: int  # how often it was; what was read before that no longer counts
    moved: list[Part]  # in order; those that are new, too
    held: int  # parts in work
    free: list[int]  # parts that nobody works on, or whose worker seems to be gone


def look_at(ledger: Database, study: str, first: int, moving: Sequence[Part]) -> Look:
    """The parts from `first` on, and what has become of those that were `moving`."""
    known = {part.number: part for part in moving}
    row = TRIALS.c
    these = (row.number >= first) | row.number.in_(list(known)) if known else row.number >= first
    mine = (row.study == study) & row.starts.is_not(None) & these

    def read(db: sa.Connection) -> Look:
        reopened = db.execute(sa.select(STUDIES.c.reopened).where(STUDIES.c.id == study))
        count = reopened.scalar_one()  # before the rows: what is newer than it is read again
        marks = sa.select(row.number, row.state, row.epochs, row.owner, row.expires,
                          clock_column(db).label("now"))  # fmt: skip
        seen = db.execute(marks.where(mine).order_by(row.number)).all()
        anew = [mark.number for mark in seen if _has_moved(mark, known.get(mark.number))]
        full = sa.select(TRIALS).where(row.study == study, row.number.in_(anew))
        read = {each.number: part_of(each) for each in db.execute(full)} if anew else {}
        moved = [
            read[mark.number] if mark.number in read else _given(known[mark.number], mark.owner)
            for mark in seen
            if mark.number in read or mark.owner != known[mark.number].owner
        ]
        running = [mark for mark in seen if mark.state == State.RUNNING]
        free = [mark.number for mark in running if _is_free(mark)]
        return Look(count, moved, len(running) - len(free), free)

    return ledger.read(read)


def _has_moved(mark: Any, known: Part | None) -> bool:
    return known is None or (mark.state, mark.epochs) != (known.state, known.epochs)


def _given(part: Part, owner: str | None) -> Part:
    return replace(part, owner=owner)


def _is_free(mark: Any) -> bool:
    """As `Claim.abandoned` sees it, but for the time after a server's start."""
    over = mark.expires <= mark.now or mark.expires > mark.now + FARTHEST_SECONDS
    return mark.owner is None or over
