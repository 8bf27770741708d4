"""Ledgers that the test which opens them need not close, and what tells our connections apart."""

from __future__ import annotations

import sqlite3
from typing import Any

import sqlalchemy as sa

from pipeline.study.storage.ledger import Ledger

_opened: list[Ledger] = []


class LedgerConnection(sqlite3.Connection):
    """Of a name that the filter of pyproject.toml for libraries does not match."""


def open_ledger(url: str) -> Ledger:
    """Is closed after the test; who uses it later connects anew."""
    ledger = Ledger(url)
    _opened.append(ledger)
    return ledger


def close_opened() -> None:
    while _opened:
        _opened.pop().close()


def named(engine: sa.Engine) -> sa.Engine:
    """The same, whose connections are told apart from those of libraries."""

    @sa.event.listens_for(engine, "do_connect")
    def _name(_: Any, __: Any, ___: Any, options: dict[str, Any]) -> None:
        options["factory"] = LedgerConnection

    return engine
