"""Whether a database can be Optuna's storage, as `doctor` and `export` ask."""

from __future__ import annotations

import os
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from pipeline.errors import UserError
from pipeline.study.storage.engine import masked

VERSIONS = "version_info"  # a table that every storage of Optuna's has


def check_holds_nothing_else(db: sa.Connection) -> bool:
    """Whether it is a storage of Optuna's already, which would add its tables to any database, and
    calls two as the ledger does. Raises UserError."""
    tables = set(sa.inspect(db).get_table_names())
    if tables and VERSIONS not in tables:
        raise UserError(
            f"the database holds tables that are not Optuna's ({', '.join(sorted(tables)[:3])}):"
            " give one of its own, such as sqlite:///optuna.db"
        )
    return bool(tables)


def standing(url: str, seconds: float) -> str:
    """What there is at the storage `url`, if it takes studies. Changes nothing.

    Raises UserError if it does not answer within some seconds, or may not be written.
    """
    try:
        address = sa.make_url(url)
        shown, sqlite = masked(address), address.get_backend_name() == "sqlite"
        file = Path(address.database or "")
        if sqlite and not file.exists():
            if not os.access(file.parent, os.W_OK):
                raise UserError(f"{file.parent} is no folder that may be written: correct the URL")
            return f"{shown}, which the first search makes"
        wait = {"timeout" if sqlite else "connect_timeout": int(seconds)}
        engine = sa.create_engine(address, poolclass=sa.NullPool, connect_args=wait)
        with engine.connect() as db:
            if check_holds_nothing_else(db):
                db.execute(sa.text(f"DELETE FROM {VERSIONS} WHERE 1 = 0"))  # asks for the right
            db.rollback()
    except (SQLAlchemyError, ImportError, ValueError) as error:
        # Of a port that is no number the whole URL is quoted, which may hold a password.
        said = "its port is no number" if type(error) is ValueError else str(error).splitlines()[0]
        raise UserError(f"does not take studies ({said}): correct the URL, or its rights") from None
    return shown
