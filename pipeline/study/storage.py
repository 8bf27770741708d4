"""The ledger's tables, and the SQLite or PostgreSQL database that holds them."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from pipeline.errors import UserError

CREATION_LOCK = 5_391_826  # any number that no other user of the database locks
# Error codes. The second: SQLite's shared memory, which is a file too, cannot grow.
FULL = sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE, "53100"  # the last: PostgreSQL's

_schema = sa.MetaData()
STUDIES = sa.Table(
    "studies",
    _schema,
    sa.Column("id", sa.String(120), primary_key=True),
    sa.Column("name", sa.String(64), index=True, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
)
TRIALS = sa.Table(
    "trials",
    _schema,
    sa.Column("study", sa.String(120), sa.ForeignKey("studies.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("parameters", sa.Text),
    sa.Column("curve", sa.Text, nullable=False, server_default="[]"),
    sa.Column("epochs", sa.Integer, nullable=False, server_default="0"),  # most ever reported
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


def open_storage(url: str) -> sa.Engine:
    """Connects to `url` (SQLAlchemy form) and creates the tables if need be. Raises UserError."""
    try:
        parsed = sa.make_url(url)
        engine = _engine(parsed)
        with transaction(engine) as db:
            if not is_sqlite(db):  # two creators at once would collide
                db.execute(sa.select(sa.func.pg_advisory_xact_lock(CREATION_LOCK)))
            _schema.create_all(db)
    except (sa.exc.ArgumentError, ValueError):  # it may hold a password, so it is not shown
        raise UserError(
            "storage is not a database URL: write sqlite:///FILE or"
            " postgresql://USER@HOST/DATABASE in machine.yaml (@ within a password is %40)"
        ) from None
    except (sa.exc.SQLAlchemyError, ImportError) as error:
        detail = str(getattr(error, "orig", error)).splitlines()[0]
        raise UserError(
            f"storage {_masked(parsed)} cannot be opened: {detail}: correct `storage` in"
            " machine.yaml"
        ) from None
    return engine


@contextmanager
def transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """One transaction that holds SQLite's write lock from its start, so that it never upgrades."""
    with engine.connect() as db:
        if is_sqlite(db):
            db.exec_driver_sql("BEGIN IMMEDIATE")
        yield db
        db.commit()


def is_sqlite(db: sa.Connection) -> bool:
    return db.dialect.name == "sqlite"


def clock(db: sa.Connection) -> float:
    """The clock in seconds that leases are measured by: one for all hosts of a PostgreSQL."""
    if is_sqlite(db):
        return time.time()
    return float(db.execute(sa.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())


def milliseconds(seconds: float) -> int:
    """A time of `clock` as the tables hold it."""
    return int(seconds * 1000)


def _engine(url: sa.URL) -> sa.Engine:
    if url.get_backend_name() == "postgresql" and "@" not in (url.host or ""):
        engine = sa.create_engine(url.set(drivername="postgresql+psycopg"), pool_pre_ping=True)
        sa.event.listen(engine, "handle_error", _explain)
        return engine
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        raise sa.exc.ArgumentError
    engine = sa.create_engine(url, connect_args={"timeout": 60})
    sa.event.listen(engine, "handle_error", _explain)

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions begin where `transaction` says
        connection.execute("PRAGMA journal_mode=WAL")
        # A power cut may take back the last transactions, never more: their epochs are trained
        # again, to the same end.
        connection.execute("PRAGMA synchronous=NORMAL")

    return engine


def _explain(context: sa.engine.ExceptionContext) -> None:
    """Raises in their place what is the disk's doing: OSError when it is full, as everywhere, and
    UserError when the file is damaged."""
    error: Any = context.original_exception
    code = getattr(error, "sqlite_errorcode", None) or getattr(error, "sqlstate", None)
    file = context.engine and context.engine.url.database
    if code in FULL:
        place = "the database server" if code == FULL[-1] else file
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), place) from None
    if isinstance(code, int) and code & 0xFF == sqlite3.SQLITE_CORRUPT:
        raise UserError(
            f"the ledger {file} is damaged ({error}): put a copy of it in its place, or move it"
            " away to search anew"
        ) from None


def _masked(url: sa.URL) -> str:
    """The URL without passwords, be they in their own place or in the query."""
    secrets = [key for key in url.query if "password" in key.lower()]
    return url.difference_update_query(secrets).render_as_string(hide_password=True)
