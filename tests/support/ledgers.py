"""Ledgers that the test which opens them need not close, and what tells our connections apart."""

from __future__ import annotations

import sqlite3
import weakref
from typing import Any

import sqlalchemy as sa

from pipeline.study.storage.ledger import Ledger


class LedgerConnection(sqlite3.Connection):
    """Of a name that the filter of pyproject.toml for libraries does not match."""


def open_ledger(url: str) -> Ledger:
    """Is closed when nobody has it any more: some tests open one at every look."""
    ledger = Ledger(url)
    weakref.finalize(ledger, ledger._engine.dispose)
    return ledger


def named(engine: sa.Engine) -> sa.Engine:
    """The same, whose connections are told apart from those of libraries."""

    @sa.event.listens_for(engine, "do_connect")
    def _name(_: Any, __: Any, ___: Any, options: dict[str, Any]) -> None:
        options["factory"] = LedgerConnection

    return engine
