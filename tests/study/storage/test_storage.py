"""Opening the ledger's database: settings, masks, and one line for what cannot be opened."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import threading
from collections import namedtuple
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
import sqlalchemy as sa
from studies import begin

from pipeline.errors import UserError
from pipeline.paths import Paths
from pipeline.settings.machine import Machine
from pipeline.study.storage import engine
from pipeline.study.storage.arithmetic import OtherArithmetic
from pipeline.study.storage.claim import Claimant
from pipeline.study.storage.engine import open_storage, transaction
from pipeline.study.storage.ledger import Ledger, storage_url

VERSION_1 = Path(__file__).parents[2] / "fixtures" / "ledger-version-1.db"


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def complaint(url: str) -> str:
    with pytest.raises(UserError) as caught:
        Ledger(url, patience=0.3)
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
        f"storage sqlite:///{tmp_path}/no/ledger.db cannot be used: unable to open database file:"
        " mend that or set another `storage` in machine.yaml, then the same command goes on"
    )


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_text("not a database, but long enough to be looked at" * 100)
    assert complaint(f"sqlite:///{tmp_path}/ledger.db") == (
        f"the ledger {tmp_path}/ledger.db is damaged (file is not a database): put a backup in its"
        " place, or move it away to search anew"
    )


def test_a_server_that_is_away(closed_port: int) -> None:
    text = complaint(f"postgresql://me@127.0.0.1:{closed_port}/db")
    assert text.startswith(f"storage postgresql://me@127.0.0.1:{closed_port}/db is away for 0 s: ")
    assert "onnection refused" in text
    assert text.endswith(
        ": see to its server, or correct `storage` in machine.yaml; then the same command goes on"
    )


def test_passwords_are_masked_wherever_they_stand(closed_port: int) -> None:
    at = f"127.0.0.1:{closed_port}"
    for url in (f"postgresql://me:secret@{at}/db", f"postgresql://me@{at}/db?password=secret&a=b",
                f"postgresql://me:secret@{at}/db?sslpassword=secret"):  # fmt: skip
        assert "secret" not in complaint(url)


@pytest.mark.parametrize("name", ["what?", "50%41", "a b#c", "ä"])
def test_a_checkout_may_have_any_path(tmp_path: Path, name: str) -> None:
    paths = Paths(tmp_path / name, "x")
    Ledger(storage_url(Machine(), paths)).close()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert paths.ledger.stat().st_size


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = namedtuple("part", "mountpoint fstype")
    mounts = [part("/", "ext4"), part(str(tmp_path / "net"), "nfs4"), part(str(tmp_path), "ext4")]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: mounts)
    (tmp_path / "net" / "deep").mkdir(parents=True)
    Ledger(f"sqlite:///{tmp_path}/ledger.db").close()
    file = tmp_path / "net" / "deep" / "ledger.db"
    assert complaint(f"sqlite:///{file}") == (
        f"storage {file} is on nfs4, a network file system, on which SQLite loses data: set"
        " `storage` in machine.yaml to postgresql://USER@HOST/DATABASE, or to sqlite:////FILE on a"
        " disk of this host"
    )
    assert not file.exists()


def test_a_creator_waits_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where SQLite does not wait by itself, as at times in its switch to a write-ahead log."""
    monkeypatch.setattr(engine, "BUSY_SECONDS", 0.0)
    file = tmp_path / "ledger.db"
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    other.execute("CREATE TABLE half (x)")
    timer = threading.Timer(0.5, other.rollback)
    timer.start()
    Ledger(f"sqlite:///{file}").close()
    assert not other.in_transaction
    timer.join()
    other.close()


def unpooled(url: str) -> sa.Engine:
    return sa.create_engine(url, poolclass=sa.NullPool)


class TestVersions:
    """A ledger of older code goes on, one of newer code is left alone."""

    def old(self, storage: str) -> None:
        """The ledger of a search by code that stored no version, in either database."""
        if storage.startswith("sqlite"):
            shutil.copyfile(VERSION_1, sa.make_url(storage).database or "")
            return
        with (
            unpooled(f"sqlite:///{VERSION_1}").connect() as source,
            unpooled(storage.replace("://", "+psycopg://")).begin() as target,
        ):
            tables = sa.MetaData()
            tables.reflect(source)
            tables.create_all(target)
            for table in tables.sorted_tables:
                rows = [dict(row) for row in source.execute(sa.select(table)).mappings()]
                target.execute(sa.insert(table), rows)

    def test_an_older_one_goes_on(self, storage: str) -> None:
        self.old(storage)
        for _ in range(2):  # the second time there is nothing to do
            ledger = Ledger(storage)
            ((study, _),) = ledger.studies("tiny", "search").items()
            trials = ledger.trials(study)
            assert [trial.state for trial in trials].count("complete") == 4
            assert trials[0].curve[0]["epoch"] == 1
            assert ledger.weights(study, 0) == {}
            assert begin(ledger, study, {}, until=1)
            ledger.close()

    def test_what_every_trial_held_for_itself_is_kept_once(self, storage: str) -> None:
        """Of an older ledger too; and its fingerprints still bind the study."""
        self.old(storage)
        source, here = {"space": "a: 1\n", "diff": "x" * 9000}, {"cpu": "AVX2", "threads": "1"}
        meta = {"host": "a", "arithmetic": here, "source": source}
        engine = unpooled(storage.replace("postgresql://", "postgresql+psycopg://"))
        with engine.begin() as db:
            db.execute(sa.text("UPDATE trials SET meta = :meta"), {"meta": json.dumps(meta)})
        ledger = Ledger(storage)
        ((study, _),) = ledger.studies("tiny", "search").items()
        trials = ledger.trials(study)
        (key,) = {trial.meta["source"] for trial in trials}
        assert ledger.origin(study, key) == source
        kept = {"host": "a", "arithmetic": here, "source": key}
        assert [trial.meta for trial in trials] == [kept] * len(trials)
        for other, allowed in ({"cpu": "AVX512"}, False), ({**here, "new": "x"}, True):
            with nullcontext() if allowed else pytest.raises(OtherArithmetic):
                asked = {"arithmetic": {**here, **other}}
                ledger.claim(study, Claimant("b", asked), budget=99)
        with engine.begin() as db:
            assert db.execute(sa.text("SELECT max(length(meta)) FROM trials")).scalar_one() < 200
            assert db.execute(sa.text("SELECT count(*) FROM origins")).scalar_one() == 1
        ledger.close()

    def test_a_run_killed_before_its_parameters_were_written_is_begun_again(
        self, storage: str
    ) -> None:
        """It gets those of the other runs of its candidate; where there are none, it is none."""
        self.old(storage)
        rows = [("some", 0, None), ("some", 1, '{"lr": 0.1}'), ("none", 0, None)]
        engine = unpooled(storage.replace("postgresql://", "postgresql+psycopg://"))
        with engine.begin() as db:
            for study in ("some", "none"):
                row = f"'{study}', 'tiny', 'candidate', '{{}}', 0"
                db.execute(sa.text(f"INSERT INTO studies VALUES ({row})"))
            for study, number, parameters in rows:
                db.execute(
                    sa.text("INSERT INTO trials (study, number, state, parameters, started_ms)"
                            " VALUES (:study, :number, 'running', :parameters, 0)"),
                    {"study": study, "number": number, "parameters": parameters},
                )  # fmt: skip
        ledger = Ledger(storage)
        assert [part.parameters for part in ledger.parts("some")] == [{"lr": 0.1}] * 2
        lease = ledger.claim("some", Claimant("b"), budget=2)
        assert lease
        assert (lease.number, lease.parameters) == (0, {"lr": 0.1})
        assert ledger.parts("none") == []
        ledger.close()

    def test_many_bring_it_up_to_date_at_once(self, storage: str) -> None:
        self.old(storage)
        with ThreadPoolExecutor(8) as pool:
            for ledger in pool.map(lambda _: Ledger(storage), range(8)):
                ledger.close()

    def test_a_newer_one_is_refused_and_unchanged(self, storage: str) -> None:
        ledger = Ledger(storage)
        with transaction(ledger._engine) as db:
            db.exec_driver_sql("UPDATE schema_version SET version = 99")
        ledger.close()
        text = complaint(storage)
        assert text.endswith(
            " is of version 99, made by newer code, and this code knows 5: update the checkout, or"
            " set another `storage` in machine.yaml"
        )

    def test_optunas_own_is_refused_and_unchanged(self, storage: str) -> None:
        """It has tables of the same names."""
        url = storage.replace("postgresql://", "postgresql+psycopg://")
        optuna.storages.RDBStorage(url).engine.dispose()
        before = everything(url)
        text = complaint(storage)
        assert " is no ledger: it holds " in text
        remedy = " of something else: move it away, or set another `storage` in machine.yaml"
        assert text.endswith(remedy)
        assert everything(url) == before


def everything(url: str) -> dict[str, list[Any]]:
    """All tables with their columns and rows."""
    with unpooled(url).connect() as db:
        tables = sa.MetaData()
        tables.reflect(db)
        return {
            table.name: [
                *(column.name for column in table.columns),
                *map(tuple, db.execute(sa.select(table))),
            ]
            for table in tables.sorted_tables
        }


def test_readers_and_a_writer_do_not_lock_each_other_out(tmp_path: Path) -> None:
    engine = open_storage(f"sqlite:///{tmp_path}/ledger.db")
    with engine.connect() as db:
        assert db.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
    engine.dispose()
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as other:
        assert other.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_without_a_setting_it_is_a_file_under_runs(tmp_path: Path) -> None:
    paths = Paths(tmp_path, "x")
    assert storage_url(Machine(), paths) == f"sqlite:///{tmp_path}/runs/state/ledger.db"
    Ledger(storage_url(Machine(), paths)).close()
    assert storage_url(Machine(storage="postgresql://h/d"), paths) == "postgresql://h/d"
