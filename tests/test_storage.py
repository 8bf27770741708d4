"""Opening the ledger's database: settings, masks, and one line for what cannot be opened."""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.machine import Machine
from pipeline.paths import Paths
from pipeline.study.ledger import Ledger, storage_url
from pipeline.study.storage import open_storage


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def complaint(url: str) -> str:
    with pytest.raises(UserError) as caught:
        Ledger(url)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["", "foo", "ledger.db", "://", "foo://bar", "mysql://u:secret@h/d", "postgres:x", "sqlite://",
     "sqlite:///:memory:", "postgresql://u:secret@h:port/d", "u:secret@h/d",
     "postgresql://u:p@ss@h/d"],
)  # fmt: skip
def test_what_is_no_url_of_a_known_database(url: str) -> None:
    assert complaint(url) == (
        "storage is not a database URL: write sqlite:///FILE or postgresql://USER@HOST/DATABASE in"
        " machine.yaml (@ within a password is %40)"
    )


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    assert complaint(f"sqlite:///{tmp_path}/no/ledger.db") == (
        f"storage sqlite:///{tmp_path}/no/ledger.db cannot be opened: unable to open database file:"
        " correct `storage` in machine.yaml"
    )


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_text("not a database, but long enough to be looked at" * 100)
    assert "cannot be opened: file is not a database" in complaint(
        f"sqlite:///{tmp_path}/ledger.db"
    )


def test_a_server_that_is_away(closed_port: int) -> None:
    text = complaint(f"postgresql://me@127.0.0.1:{closed_port}/db")
    assert text.startswith(f"storage postgresql://me@127.0.0.1:{closed_port}/db cannot be opened: ")
    assert "onnection refused" in text
    assert text.endswith(": correct `storage` in machine.yaml")


def test_passwords_are_masked_wherever_they_stand(closed_port: int) -> None:
    at = f"127.0.0.1:{closed_port}"
    for url in (f"postgresql://me:secret@{at}/db", f"postgresql://me@{at}/db?password=secret&a=b",
                f"postgresql://me:secret@{at}/db?sslpassword=secret"):  # fmt: skip
        assert "secret" not in complaint(url)


def test_readers_and_a_writer_do_not_lock_each_other_out(tmp_path: Path) -> None:
    engine = open_storage(f"sqlite:///{tmp_path}/ledger.db")
    with engine.connect() as db:
        assert db.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
    engine.dispose()
    with sqlite3.connect(tmp_path / "ledger.db") as other:
        assert other.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_without_a_setting_it_is_a_file_under_runs(tmp_path: Path) -> None:
    paths = Paths(tmp_path, "x")
    assert storage_url(Machine(), paths) == f"sqlite:///{tmp_path}/runs/state/ledger.db"
    Ledger(storage_url(Machine(), paths)).close()
    assert storage_url(Machine(storage="postgresql://h/d"), paths) == "postgresql://h/d"
