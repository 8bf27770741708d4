"""Failed trials that are to be tried again, and every part that was planned after seeing them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa

from pipeline.results.states import State
from pipeline.study.storage.claim import lock_study
from pipeline.study.storage.engine import clock
from pipeline.study.storage.ledger import Ledger
from pipeline.study.storage.rows import Part
from pipeline.study.storage.schema import STUDIES, TRIALS
from pipeline.study.storage.transitions import REOPEN


class AtWork(Exception):
    """Someone holds a trial of the study."""


def to_reopen(parts: Sequence[Part], trial: int | None = None) -> tuple[list[int], list[int]]:
    """The failed parts (or that trial's), and the parts that saw one of them.

    A part that began before a failed one had ended knows of it nothing but its parameters, which
    stay the same. A kept trial stays what it is. Raises ValueError for a trial that has not failed.
    """
    lost = [part for part in parts if part.state == State.FAILED and not part.kept]
    failed = [part.number for part in lost if trial in (None, part.trial)]
    if trial is not None and not failed:
        raise ValueError(trial)
    first = min((p.number for p in parts if p.follows in failed), default=len(parts))
    return [n for n in failed if n < first], list(range(first, len(parts)))


class Reopening(NamedTuple):
    """Parts of a study, by number: the failed ones, and those that saw them."""

    study: str
    failed: list[int]
    seeing: list[int]
    known: int | None = None  # how many parts the study had when it was read


def reopen(ledger: Ledger, *these: Reopening) -> None:
    """Makes parts as if nobody had worked on them: all of them, or none. Raises AtWork, also if
    others came to a study since it was read, or the failed were opened.

    The fencing token goes on, so that who held one before can write nothing. The failed ones keep
    their parameters and their places, those that saw them are planned anew.
    """

    def write(db: sa.Connection) -> None:
        for each in these:
            _reopen(db, each, clock(db))

    ledger.write(write)


def _reopen(db: sa.Connection, parts: Reopening, now: float) -> None:
    study, failed, seeing, known = parts
    lock_study(db, study)  # a claim that comes now waits, and then sees what was opened
    row = TRIALS.c
    count = sa.select(sa.func.count()).where(row.study == study)
    still = count.where(row.number.in_(failed), row.state == State.FAILED)
    if known not in (None, db.execute(count).scalar_one()) or (
        db.execute(still).scalar_one() != len(failed)
    ):
        raise AtWork(study)
    held = (row.study == study) & row.owner.is_not(None) & (row.expires > now)
    if db.execute(sa.select(row.number).where(held & (row.state == State.RUNNING))).first():
        raise AtWork(study)
    fresh = {"state": State.RUNNING, "curve": "[]", "epochs": row.since, "result": None,
             "reason": None, "owner": None, "expires": 0, "finished_ms": None,
             **REOPEN.change(row)}  # fmt: skip
    again = sa.update(STUDIES).where(STUDIES.c.id == study)
    db.execute(again.values(reopened=STUDIES.c.reopened + 1))
    for numbers, more in ((failed, {}), (seeing, {"parameters": None, "starts": None})):
        these = (row.study == study) & row.number.in_(numbers)
        db.execute(sa.update(TRIALS).where(these).values(**fresh, **more))
