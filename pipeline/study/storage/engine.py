"""The SQLite or PostgreSQL database that holds the ledger: opened, locked, timed out."""

from __future__ import annotations

import errno
import os
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa

from pipeline.study.storage.blocker import postgresql_blocker, sqlite_blocker
from pipeline.study.storage.outages import PATIENCE_SECONDS, StorageError, keep_trying, unusable
from pipeline.study.storage.schema import VERSION, strangers, upgrade, version

CREATION_LOCK = 5_391_826  # any number that no other user of the database locks
# Error codes. The second: SQLite's shared memory, which is a file too, cannot grow.
FULL = sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE, "53100"  # the last: PostgreSQL's
BUSY_SECONDS = 5.0  # SQLite's own wait for a lock, before it is said
SESSION = {  # of PostgreSQL: whoever is frozen within a transaction loses it, and with it its locks
    "idle_in_transaction_session_timeout": "10s",
    "lock_timeout": "15s",
    "statement_timeout": "60s",
    "tcp_keepalives_idle": 10,
    "tcp_keepalives_interval": 5,
    "tcp_keepalives_count": 3,
}
CONNECTION = {  # of its client library: a server that vanished without a word
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,  # milliseconds
}
NETWORK = {
    "afpfs", "afs", "ceph", "cifs", "davfs", "fuse.davfs2", "fuse.glusterfs", "fuse.sshfs",
    "glusterfs", "ncpfs", "nfs", "nfs4", "smb2", "smb3", "smbfs", "webdav",
}  # fmt: skip


def open_storage(url: str, seconds: float = PATIENCE_SECONDS) -> sa.Engine:
    """Connects to `url` (SQLAlchemy form); creates the tables, or brings older ones up to date.

    Waits for a database that is away. Raises StorageError.
    """
    try:
        parsed = sa.make_url(url)
        engine = _engine(parsed)
    except (sa.exc.ArgumentError, ImportError, ValueError):  # a password in it is not shown
        raise StorageError(
            "storage is not a database URL: write sqlite:///FILE or"
            " postgresql://USER@HOST/DATABASE in machine.yaml (@ within a password is %40)"
        ) from None
    place = masked(parsed)
    try:
        keep_trying(
            lambda: _make_ready(engine), place, seconds=seconds, blocker=lambda: blocker(engine)
        )
    except sa.exc.SQLAlchemyError as error:
        engine.dispose()
        raise unusable(error, place) from None
    except BaseException:
        engine.dispose()
        raise
    return engine


def _make_ready(engine: sa.Engine) -> None:
    """Writes only if there is need: nobody's lock keeps a reader from opening."""
    with engine.connect() as db:
        found = version(db)
        others = [] if found else strangers(db)
        if others and (found := version(db)):  # made in between
            others = []
    if others:
        raise StorageError(
            f"storage {masked(engine.url)} is no ledger: it holds {', '.join(others[:3])} of"
            " something else: move it away, or set another `storage` in machine.yaml"
        )
    if found > VERSION:
        raise StorageError(
            f"storage {masked(engine.url)} is of version {found}, made by newer code, and this code"
            f" knows {VERSION}: update the checkout, or set another `storage` in machine.yaml"
        )
    if found == VERSION:
        return
    with transaction(engine) as db:
        if not is_sqlite(db):  # two creators at once would collide
            db.execute(sa.select(sa.func.pg_advisory_xact_lock(CREATION_LOCK)))
        upgrade(db)


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


def insert(db: sa.Connection, table: sa.Table) -> Any:
    """An INSERT that may say what is to be done on a conflict."""
    from sqlalchemy.dialects import postgresql, sqlite

    return (sqlite if is_sqlite(db) else postgresql).insert(table)


def clock(db: sa.Connection) -> float:
    """The clock in seconds that leases are measured by: one for all hosts of a PostgreSQL."""
    if is_sqlite(db):
        return time.time()
    return float(db.execute(sa.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())


def clock_column(db: sa.Connection) -> sa.ColumnElement[float]:
    """The same within another statement."""
    if is_sqlite(db):
        return sa.literal(time.time())
    return sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Float(53))


def milliseconds(seconds: float) -> int:
    """A time of `clock` as the tables hold it."""
    return int(seconds * 1000)


def server_start(db: sa.Connection) -> float:
    """When the server was started, on its `clock`; 0 for SQLite, which has none."""
    if is_sqlite(db):
        return 0.0
    return float(
        db.execute(sa.text("SELECT extract(epoch FROM pg_postmaster_start_time())")).scalar_one()
    )


def blocker(engine: sa.Engine) -> str:
    """Who keeps others from writing, as far as it can be told."""
    if engine.dialect.name == "sqlite":
        return sqlite_blocker(engine.url.database or "")
    try:
        with engine.connect() as db:
            return postgresql_blocker(db)
    except sa.exc.SQLAlchemyError:
        return ""


def _engine(url: sa.URL) -> sa.Engine:
    if url.get_backend_name() == "postgresql" and "@" not in (url.host or ""):
        engine = _postgresql(url)
    elif url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
        engine = _sqlite(url)
    else:
        raise sa.exc.ArgumentError
    sa.event.listen(engine, "handle_error", _explain)
    return engine


def _postgresql(url: sa.URL) -> sa.Engine:
    """Whoever vanishes or freezes gives way, and who waits hears of it. What the URL's own query
    says of these options goes before."""
    options = " ".join(f"-c {name}={value}" for name, value in SESSION.items())
    own = url.query.get("options", "")
    settings = {name: value for name, value in CONNECTION.items() if name not in url.query}
    me = f"vae-pipeline {socket.gethostname()}/{os.getpid()}"[:63]
    engine = sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,
        isolation_level="READ COMMITTED",  # whatever the server's, database's or role's default
        connect_args={"application_name": me, **settings, "options": f"{options} {own}".strip()},
    )

    @sa.event.listens_for(engine, "do_connect")
    def _connect(_: Any, __: Any, arguments: list[Any], options: dict[str, Any]) -> Any:
        from pipeline.study.storage.postgres import Connection  # late: most know no PostgreSQL

        return Connection.connect(*arguments, **options)

    return engine


def _sqlite(url: sa.URL) -> sa.Engine:
    _refuse_network(Path(url.database or ""))
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_SECONDS})

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions begin where `transaction` says
        connection.execute("PRAGMA journal_mode=WAL")
        # A power cut may take back the last transactions, never more: their epochs are trained
        # again, to the same end.
        connection.execute("PRAGMA synchronous=NORMAL")

    return engine


def file_system(folder: Path) -> str:
    """The kind of file system that a folder is on; empty if the system does not tell."""
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    real = Path(os.path.realpath(folder))
    return next((mounts[each] for each in (real, *real.parents) if each in mounts), "")


def _refuse_network(file: Path) -> None:
    """SQLite's write-ahead log needs memory that all its users share: no network gives it."""
    kind = file_system(Path(os.path.realpath(file)).parent)  # of a link to itself, too
    if kind.lower() in NETWORK:
        raise StorageError(
            f"storage {file} is on {kind}, a network file system, on which SQLite loses"
            " data: set `storage` in machine.yaml to postgresql://USER@HOST/DATABASE, or to"
            " sqlite:////FILE on a disk of this host"
        )


def _explain(context: sa.engine.ExceptionContext) -> None:
    """Raises in their place what is the disk's doing: OSError when it is full, as everywhere, and
    UserError when the file is damaged."""
    error: Any = context.original_exception
    code = getattr(error, "sqlite_errorcode", None) or getattr(error, "sqlstate", None)
    file = context.engine and context.engine.url.database
    if code in FULL:
        place = "the database server" if code == FULL[-1] else file
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), place) from None
    if isinstance(code, int) and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        raise StorageError(
            f"the ledger {file} is damaged ({error}): put a backup in its place, or move it away to"
            " search anew"
        ) from None


def masked(url: sa.URL) -> str:
    """The URL as a person writes it, without passwords, wherever in it they stand."""
    if url.get_backend_name() == "sqlite":
        return f"sqlite:///{url.database}"
    secrets = [key for key in url.query if "password" in key.lower()]
    plain = url.difference_update_query(secrets).set(drivername=url.get_backend_name())
    return plain.render_as_string(hide_password=True)
