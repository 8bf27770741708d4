"""Whether the storage can be used, as `doctor` asks."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass

import sqlalchemy as sa

from pipeline.paths import Paths
from pipeline.settings.machine import Machine
from pipeline.study.storage.engine import is_sqlite, masked
from pipeline.study.storage.ledger import Ledger, storage_url
from pipeline.study.storage.readonly import has_ledger
from pipeline.study.storage.schema import VERSION


@dataclass(frozen=True)
class Health:
    """A storage that answers."""

    place: str  # its URL without passwords
    version: int
    skew: float  # seconds that this host's clock is ahead of the storage's
    connections: int | None  # at most; None: as many as files can be open
    used: int = 0


def health(machine: Machine, paths: Paths, patience: float) -> Health | None:
    """What the storage says; None: there is none yet. Brings an older one up to date, as every
    command does. Raises UserError if it is away for `patience` seconds or cannot be used."""
    if not has_ledger(machine, paths):
        return None
    url = storage_url(machine, paths)
    with closing(Ledger(url, patience=patience)) as ledger:
        before = time.time()
        there = ledger.now()
        skew = (before + time.time()) / 2 - there
        most, used = ledger.read(_connections)
        return Health(masked(sa.make_url(url)), VERSION, skew, most, used)


def _connections(db: sa.Connection) -> tuple[int | None, int]:
    """How many there may be for people without privileges, and how many there are."""
    if is_sqlite(db):
        return None, 0
    text = (
        "SELECT current_setting('max_connections')::int"
        " - current_setting('superuser_reserved_connections')::int,"
        " (SELECT count(*) FROM pg_stat_activity WHERE datname IS NOT NULL)"
    )
    most, used = db.execute(sa.text(text)).one()
    return int(most), int(used)
