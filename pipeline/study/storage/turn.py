"""Whose turn it is: work that may not overlap itself, on whatever hosts it is begun.

A turn is a row with a holder and a time of expiry, beside the ledger's tables and in the same
database. Who has it renews it; of a holder that died it is free when it has run out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from pipeline.study.storage.claim import FARTHEST_SECONDS
from pipeline.study.storage.database import Database
from pipeline.study.storage.engine import clock, insert, server_start
from pipeline.study.storage.heartbeat import AGAIN_SECONDS
from pipeline.study.storage.ledger import FORGIVING_SECONDS
from pipeline.study.storage.outages import StorageAway
from pipeline.study.storage.schema import TURNS

TURN_SECONDS = 60.0


def take_turn(ledger: Database, name: str, owner: str, dead: Callable[[str], bool]) -> str:
    """Takes a turn, or renews one's own; who has it afterwards. `dead` tells of a holder whether
    it is known to be gone."""

    def take(db: sa.Connection) -> str:
        query = sa.select(TURNS.c.owner, TURNS.c.expires).where(TURNS.c.name == name)
        row = db.execute(query).first()
        holder = str(row.owner) if row else owner
        if holder != owner and dead(holder):
            _delete(db, name, holder)
        elif row and holder != owner and _is_forgiven(db, row.expires):
            return holder
        return owner if take_free(db, name, owner, TURN_SECONDS) else holder

    return ledger.write(take)


def _is_forgiven(db: sa.Connection, expires: float) -> bool:
    """Whether a turn could not be renewed while the server was away, and who has it is about to."""
    now, started = clock(db), server_start(db)
    return 0.0 <= now - started < FORGIVING_SECONDS and started + TURN_SECONDS - expires > 0.0


def take_free(db: sa.Connection, name: str, owner: str, seconds: float) -> bool:
    """Takes a turn that is nobody's or has run out, or goes on with one's own, in one statement."""
    row, now = TURNS.c, clock(db)
    values = {"owner": owner, "expires": now + seconds}
    over = (row.expires <= now) | (row.expires > now + FARTHEST_SECONDS)
    taken = insert(db, TURNS).values(name=name, **values)
    mine = taken.on_conflict_do_update(
        index_elements=[row.name], set_=values, where=over | (row.owner == owner)
    )
    return db.execute(mine.returning(row.owner)).first() is not None


def leave_turn(ledger: Database, name: str, owner: str) -> None:
    """Gives a turn up, if it is still one's own."""
    ledger.write(lambda db: _delete(db, name, owner))


def _delete(db: sa.Connection, name: str, owner: str) -> None:
    db.execute(sa.delete(TURNS).where(TURNS.c.name == name, TURNS.c.owner == owner))


@contextmanager
def renewed(ledger: Database, name: str, owner: str, lost: Callable[[], None]) -> Iterator[None]:
    """Keeps a turn within the block and leaves it after; `lost` is called if another has taken it,
    since this process had stood still for too long."""
    over = threading.Event()
    seen = ledger.impatient()

    def renew() -> None:
        pause = TURN_SECONDS / 3
        while not over.wait(pause):
            pause = TURN_SECONDS / 3
            try:
                if take_turn(seen, name, owner, lambda _: False) != owner:
                    return lost()
            except StorageAway:  # everyone else waits for it too
                pause = min(pause, AGAIN_SECONDS)

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        leave_turn(ledger, name, owner)
