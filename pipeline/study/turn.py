"""Whose turn it is: work that may not overlap itself, on whatever hosts it is begun.

A turn is a row with a holder and a time of expiry, beside the ledger's tables and in the same
database. Who has it renews it; of a holder that died it is free when it has run out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from pipeline.study.ledger import Ledger
from pipeline.study.patience import StorageAway
from pipeline.study.schema import TURNS
from pipeline.study.storage import clock, is_sqlite

TURN_SECONDS = 60.0
FARTHEST_SECONDS = 120.0  # no turn ends later: the clock was set back since
LOCK = 0x7475726E  # of PostgreSQL, for those who look at the table at once


def take_turn(ledger: Ledger, name: str, owner: str, dead: Callable[[str], bool]) -> str:
    """Takes a turn, or renews one's own; who has it afterwards. `dead` tells of a holder whether
    it is known to be gone."""

    def take(db: sa.Connection) -> str:
        if not is_sqlite(db):  # whose writers wait for each other anyway
            db.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
        row, now = TURNS.c, clock(db)
        held = db.execute(sa.select(row.owner, row.expires).where(row.name == name)).first()
        if (
            held
            and held.owner != owner
            and now < held.expires <= now + FARTHEST_SECONDS
            and not dead(held.owner)
        ):
            return str(held.owner)
        db.execute(sa.delete(TURNS).where(row.name == name))
        values = {"name": name, "owner": owner, "expires": now + TURN_SECONDS}
        db.execute(sa.insert(TURNS).values(values))
        return owner

    return ledger.write(take)


def leave_turn(ledger: Ledger, name: str, owner: str) -> None:
    """Gives a turn up, if it is still one's own."""
    mine = (TURNS.c.name == name) & (TURNS.c.owner == owner)
    ledger.write(lambda db: db.execute(sa.delete(TURNS).where(mine)))


@contextmanager
def renewed(ledger: Ledger, name: str, owner: str, lost: Callable[[], None]) -> Iterator[None]:
    """Keeps a turn within the block and leaves it after; `lost` is called if another has taken it,
    since this process had stood still for too long."""
    over = threading.Event()
    seen = ledger.impatient()

    def renew() -> None:
        while not over.wait(TURN_SECONDS / 3):
            try:
                if take_turn(seen, name, owner, lambda _: False) != owner:
                    return lost()
            except StorageAway:  # everyone else waits for it too
                continue

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        leave_turn(ledger, name, owner)
