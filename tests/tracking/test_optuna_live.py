"""An Optuna study that grows while a search goes on, and costs it nothing when it cannot."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import optuna
import pytest
from servers import wait_for
from sweeps import Desk, curve

from pipeline.settings.machine import Machine
from pipeline.sync import follow
from pipeline.sync.optuna_study import LiveStudy

ROOT = Path(__file__).parents[2]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    desk = Desk(tmp_path / "checkout")
    desk.write_search()
    return desk


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """The database as another process holds it that writes for long."""
    with closing(sqlite3.connect(file)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        yield


def url(desk: Desk, more: str = "") -> str:
    return f"sqlite:///{desk.root}/optuna.db{more}"


def states(desk: Desk) -> list[str]:
    found = optuna.load_study(study_name=desk.study.id, storage=url(desk))
    return [each.state.name for each in found.trials]


def test_it_follows_a_search_and_ends_as_an_export_by_hand(desk: Desk) -> None:
    study = LiveStudy(desk.space, desk.paths, desk.ledger, url(desk))
    assert not study.look("prepare")
    assert study.text() == ""
    lease = desk.claim(desk.study)
    desk.ledger.report(lease, curve(2))
    assert study.look("prepare")
    assert states(desk) == ["RUNNING"]
    assert not study.look("prepare")  # nothing has moved
    desk.ledger.finish(lease, "complete", curve(3), {"nelbo_nats": 97.0, "best_epoch": 3})
    desk.complete(desk.study, 96.0)
    assert study.look("search")
    assert states(desk) == ["COMPLETE", "COMPLETE"]
    assert study.text() == f"optuna tiny: 2 trials in {desk.study.id}"


def test_a_database_that_is_locked_is_lag(desk: Desk) -> None:
    quick = url(desk, "?timeout=0.01")
    study = LiveStudy(desk.space, desk.paths, desk.ledger, quick)
    desk.complete(desk.study)
    assert study.look("prepare")
    desk.complete(desk.study)
    with locked(desk.root / "optuna.db"):
        assert study.look("prepare")
    assert "database is locked" in study.text()
    assert "nothing is lost, `python -m pipeline export tiny --optuna URL` goes on" in study.text()
    assert "\n" not in study.text()
    assert study.look("prepare")
    assert states(desk) == ["COMPLETE", "COMPLETE"]
    assert "nothing is lost" not in study.text()


@pytest.mark.slow
@pytest.mark.parametrize("place", ["optuna.db", "nowhere/optuna.db"])
def test_a_command_has_a_process_of_its_own_for_it(
    desk: Desk, place: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "none")
    monkeypatch.setattr(follow, "CATCH_UP_SECONDS", 600.0)
    (desk.root / "machine.yaml").write_text(f"optuna: sqlite:///{place}\n")
    machine = Machine(tracking="none", optuna=f"sqlite:///{place}")
    with follow.following(desk.space, machine, desk.paths, "prepare"):
        desk.complete(desk.study)
        if place == "optuna.db":
            wait_for(lambda: (desk.root / "optuna.db").exists())
        desk.complete(desk.study)
    said = capfd.readouterr().err
    if place == "optuna.db":
        assert states(desk) == ["COMPLETE", "COMPLETE"]
        assert said == f"optuna tiny: 2 trials in {desk.study.id}\n"
    else:
        assert said.startswith("export tiny: Optuna's storage does not take it")
        assert said.count("\n") == 1
    assert not (desk.paths.state / "mlflow.db").exists()
