"""What `doctor` says of a checkout that is in order, and of one where something is wrong."""

from __future__ import annotations

import http.server
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from surroundings import free_port

from pipeline.commands import doctor
from pipeline.commands.doctor import Finding, examine
from pipeline.paths import Paths
from pipeline.settings.machine import Machine, Slurm
from pipeline.study.storage import health as health_module
from pipeline.study.storage.ledger import Ledger, storage_url

PLAIN = {"device": "cpu", "tracking": "none", "workers": 2}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Ledger(storage_url(Machine(), Paths(tmp_path, ""))).close()
    return tmp_path


def wrong(root: Path, **keys: object) -> list[str]:
    """What is wrong on such a machine."""
    findings = examine(root, Machine.model_validate({**PLAIN, **keys}))
    assert len(findings) >= 5
    return [str(finding) for finding in findings if finding.remedy]


def test_all_is_well(root: Path) -> None:
    assert wrong(root) == []


def test_what_is_not_locked(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "requirements.lock").write_text("torch==1.0 \\\n    --hash=sha256:0\nsix==1\n")
    (said,) = wrong(root)
    assert said.startswith("wrong environment: Python 3.")
    assert "instead of 1.0: make .venv" in said


def test_a_device_that_is_not_there(root: Path) -> None:
    (said,) = wrong(root, device="cuda:63")
    assert said.startswith("wrong device: device cuda:63 cannot be used: ")


def test_a_clock_that_is_set_wrongly(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later = SimpleNamespace(time=lambda: time.time() + 90)
    monkeypatch.setattr(health_module, "time", later)
    (said,) = wrong(root)
    assert said.startswith("wrong clock: +90 s from the storage's: ")


def test_a_storage_that_is_away(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "SECONDS", 0.1)
    (said,) = wrong(root, storage=f"postgresql://me:secret@127.0.0.1:{free_port()}/sweeps")
    assert said.startswith("wrong storage: storage postgresql://me:***@127.0.0.1:")


@pytest.mark.slow
def test_too_few_connections_for_the_workers(root: Path, postgres_storage: str) -> None:
    assert wrong(root, storage=postgres_storage) == []
    (said,) = wrong(root, storage=postgres_storage, workers=1000)
    assert "1000 workers need 2000: raise max_connections, or lower `workers`" in said


@pytest.fixture
def server() -> Iterator[int]:
    """The port of a server that says 503 to everything."""

    class Busy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(503)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Busy) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made.server_port
        made.shutdown()


def test_a_tracker_that_is_busy_or_away(root: Path, server: int) -> None:
    (said,) = wrong(root, tracking=f"http://me:secret@127.0.0.1:{server}")
    assert said == (
        f"wrong tracker: http://127.0.0.1:{server} says 503: see its log, and `tracking`"
    )
    (said,) = wrong(root, tracking=f"http://127.0.0.1:{free_port()}")
    assert "does not answer" in said


def test_a_storage_of_optuna_is_looked_at_and_left_as_it_is(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = root / "optuna.db"
    machine = Machine(optuna=f"sqlite:///{file}")

    def said() -> str:
        (finding,) = doctor._optuna(root, machine)
        return str(finding)

    assert said() == f"ok    optuna: sqlite:///{file}, which the first search makes"
    assert not file.exists()
    optuna.create_study(storage=machine.optuna, study_name="mine")
    before = file.read_bytes()
    assert said() == f"ok    optuna: sqlite:///{file}"
    monkeypatch.setattr(doctor, "SECONDS", 0)
    with closing(sqlite3.connect(file)) as db:
        db.execute("BEGIN EXCLUSIVE")
        assert said().startswith("wrong optuna: does not take studies (")
    assert file.read_bytes() == before
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("DROP TABLE version_info")
    assert "holds tables that are not Optuna's" in said()
    url = f"postgresql+psycopg://me:secret@127.0.0.1:{free_port()}/optuna"
    for away in (url, f"sqlite:///{root}/none/optuna.db"):
        (finding,) = doctor._optuna(root, Machine(optuna=away))
        assert str(finding).startswith("wrong optuna: ")
        assert "secret" not in str(finding)
        assert "\n" not in str(finding)


def test_a_tracker_that_is_a_database_is_named(root: Path) -> None:
    uri = "postgresql://me:secret@far/mlflow"
    (finding,) = doctor._tracker(root, Machine.model_validate({**PLAIN, "tracking": uri}))
    assert finding == Finding("tracker", "postgresql://***@far/mlflow, not looked at")


def test_a_dvc_remote_with_a_space_in_its_path(root: Path) -> None:
    (root / ".dvc").mkdir()
    (root / "my disk").mkdir()
    config = f"[core]\n    remote = far\n['remote \"far\"']\n    url = {root}/my disk\n"
    (root / ".dvc" / "config").write_text(config)
    (root / ".git").mkdir()
    assert list(doctor._dvc(root, Machine())) == [Finding("dvc", f"remote far at {root}/my disk")]


def test_a_slurm_that_is_not_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(root))
    monkeypatch.setattr(doctor, "health", lambda *_: None)
    machine = Machine(storage="postgresql://me@localhost/sweeps", slurm=Slurm())
    first, second = doctor._slurm(root, machine)
    assert "sbatch is not there" in first.found
    assert str(second) == (
        "wrong slurm: `storage` is at localhost/sweeps: name it as the nodes reach it"
    )


def test_a_disk_that_is_full_or_far_away(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LEAST_BYTES", 2**62)
    (said,) = wrong(root)
    assert "make room" in said
    monkeypatch.undo()
    monkeypatch.setattr("pipeline.study.storage.engine.file_system", lambda _: "nfs4")
    (finding,) = doctor._disk(root, Machine())
    assert "SQLite loses data there" in finding.remedy


def test_a_dvc_remote_that_is_gone(root: Path) -> None:
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config").write_text("['remote \"far\"']\n    url = /nowhere/at/all\n")
    (root / ".git").mkdir()
    (finding,) = doctor._dvc(root, Machine())
    assert finding == Finding(
        "dvc",
        "remote far at /nowhere/at/all",
        "it is not there: mount or make it, or `dvc remote modify far url`",
    )


@pytest.mark.parametrize("uri", [None, "sqlite:///own.db"])
def test_a_tracker_whose_database_is_damaged(root: Path, uri: str | None) -> None:
    def said() -> str:
        found = examine(root, Machine.model_validate({**PLAIN, "tracking": uri}))
        (line,) = (str(each) for each in found if each.place == "tracker")
        return line

    db = root / uri.rpartition("/")[2] if uri else Paths(root, "").mlflow_db
    assert said() == f"ok    tracker: {db}, which the first sync makes"
    with closing(sqlite3.connect(db)) as whole, whole:
        whole.execute("CREATE TABLE experiments (name)")
        whole.executemany("INSERT INTO experiments VALUES (?)", [("a" * 100,)] * 1000)
    assert said() == f"ok    tracker: {db}"
    db.write_bytes(db.read_bytes()[:50_000])
    assert said().startswith(f"wrong tracker: {db} is damaged (")
    assert said().endswith("): move it away, and the next sync makes another")
    db.write_bytes(b"garbage" * 100)
    assert "is damaged (file is not a database)" in said()


def test_a_tracker_in_a_database_server_is_named(root: Path) -> None:
    machine = Machine.model_validate({**PLAIN, "tracking": "postgresql://me:secret@db/mlflow"})
    (line,) = (str(each) for each in examine(root, machine) if each.place == "tracker")
    assert line == "ok    tracker: postgresql://***@db/mlflow, not looked at"
