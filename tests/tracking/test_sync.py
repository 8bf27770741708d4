"""The commands that bring MLflow up to date: live beside a sweep, and by hand."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from recording import record_stages
from records import Store, copy_db, more_rows
from servers import Server, wait_for
from sweeps import Desk

from pipeline.files import read_json, write_json, write_text
from pipeline.settings.deadline import now
from pipeline.settings.machine import Machine
from pipeline.sync import follow
from pipeline.tracking.store import connect, store_of

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
TRIALS = 60
POINTS = 11  # of a trial: three epochs with three metrics, and two best values


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the commands that tests start find."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def command(root: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *argv], cwd=root, capture_output=True, text=True
    )


def test_a_mirror_that_the_command_cannot_wait_for_is_continued_where_it_was(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    desk = Desk(tmp_path / "checkout", Machine(tracking=server.uri))
    for _ in range(TRIALS):
        desk.complete(desk.study)
    monkeypatch.setattr(follow, "CATCH_UP_SECONDS", 0.1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "600")
    with follow.following(desk.space, desk.machine, desk.paths, "prepare"):
        wait_for(partial(more_rows, tmp_path / "server.db", "runs", 10))
        server.signal(signal.SIGSTOP)
    server.signal(signal.SIGCONT)
    assert "`python -m pipeline sync tiny` sends the rest" in capfd.readouterr().err

    (said,) = follow.sync_all(desk.root, desk.machine, "tiny", rebuild=False)
    sent = re.search(r"(\d+) metric points", said)
    assert sent
    assert 0 < int(sent[1]) < (TRIALS - 8) * POINTS  # nine trials at least had arrived whole
    held = Store(*store_of(desk.machine, desk.paths), "tiny").dump()
    assert len(held) == 1 + TRIALS
    for run in held.values():
        assert run["info"][1] == "FINISHED"
        assert all(len(points) in (1, 3) for points in run["metrics"].values())


def test_a_command_says_all_that_its_mirror_has_sent(
    empty_db: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    desk = Desk(tmp_path)
    copy_db(empty_db, desk.paths.mlflow_db)
    for _ in range(2):
        desk.complete(desk.study)
    with follow.following(desk.space, desk.machine, desk.paths, "prepare"):
        wait_for(partial(more_rows, desk.paths.mlflow_db, "metrics", 2 * POINTS - 1))
        desk.complete(desk.study)
    assert "sync tiny: 4 new runs, " in capfd.readouterr().err


def test_past_a_deadline_a_mirror_has_ten_seconds() -> None:
    assert follow._patience(None) == follow._patience(now() + timedelta(hours=1)) == 60.0
    assert 25.0 < follow._patience(now() + timedelta(seconds=30)) <= 30.0
    assert follow._patience(now() - timedelta(seconds=1)) == 10.0


def test_a_lost_store_comes_back_equal_and_its_runs_lead_to_their_origin(
    empty_db: Path, tmp_path: Path
) -> None:
    desk = Desk(tmp_path)
    desk.run_all_stages()
    copy_db(empty_db, desk.paths.mlflow_db)
    store = Store(*store_of(desk.machine, desk.paths), "tiny")
    list(follow.sync_all(desk.root, desk.machine, None, rebuild=False))
    before = store.dump()
    (study,) = (run for run in before.values() if run["parent"] is None)
    assert {"evaluate/metrics.json", "report.html"} <= study["artifacts"].keys()
    assert any(re.fullmatch("model-[0-9a-f]{12}/MLmodel", name) for name in study["artifacts"])

    desk.paths.mlflow_db.unlink()
    shutil.rmtree(desk.paths.mlflow_artifacts)
    rebuilt = command(desk.root, "sync", "--rebuild")
    assert (rebuilt.returncode, rebuilt.stderr) == (0, "")
    assert "5 new runs" in rebuilt.stdout
    assert "model version 1 (champion: the first version)" in rebuilt.stdout
    store = Store(*store_of(desk.machine, desk.paths), "tiny")  # another process has made it
    assert store.dump() == before

    (best,) = store.client.search_runs(
        [store.experiment_id], "tags.kind = 'trial' and tags.number = '1'"
    )
    origin = command(desk.root, "where", best.info.run_id)
    assert (origin.returncode, origin.stderr) == (0, "")
    assert "git checkout c0ffee" in origin.stdout
    assert "python -m pipeline reproduce tiny 1" in origin.stdout


@pytest.mark.parametrize("damage", ["weights", "code"])
def test_a_damaged_model_is_not_what_mlflow_gets(
    damage: str, empty_db: Path, tmp_path: Path
) -> None:
    desk = Desk(tmp_path)
    desk.run_all_stages()
    copy_db(empty_db, desk.paths.mlflow_db)
    list(follow.sync_all(desk.root, desk.machine, None, rebuild=False))
    (kept,) = (desk.paths.state / "models").iterdir()
    name = {"weights": "data/vae/model.safetensors", "code": "code/pipeline/seeds.py"}[damage]
    whole = (kept / name).read_bytes()
    (kept / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    desk.paths.mlflow_db.unlink()
    shutil.rmtree(desk.paths.mlflow_artifacts)
    rebuilt = command(desk.root, "sync", "--rebuild")
    assert (rebuilt.returncode, rebuilt.stderr) == (0, "")
    (sent,) = desk.paths.mlflow_artifacts.rglob(f"model-*/{name}")
    assert sent.read_bytes() == whole


def test_a_server_that_is_away_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:1")
    desk = Desk(tmp_path)
    desk.complete(desk.study)
    failed = command(desk.root, "sync")
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr.startswith(
        "error: sync tiny: MLflow at http://***@127.0.0.1:1 is not available"
    )
    assert failed.stderr.endswith("; nothing is lost, the same command goes on\n")
    assert failed.stderr.count("\n") == 1
    assert "secret" not in failed.stderr


def test_a_later_winner_of_a_study_leaves_the_champions_weights_alone(
    empty_db: Path, tmp_path: Path
) -> None:
    """Trials were added, and another candidate won: both winners are of one run in MLflow."""
    desk = Desk(tmp_path)
    desk.run_all_stages()
    copy_db(empty_db, desk.paths.mlflow_db)
    assert command(desk.root, "sync").returncode == 0
    winner = read_json(desk.paths.winner)
    write_json(desk.paths.winner, {**winner, "values_nelbo_nats": [98.0, 99.0]})
    write_text(desk.paths.model, "other weights")
    record_stages(desk.paths, desk.space, "retrain", "evaluate", "render")
    assert "model version 2 (not the champion" in command(desk.root, "sync").stdout
    client = connect(store_of(desk.machine, desk.paths).uri)
    held = {}
    for alias in ("champion", "challenger"):
        version = client.get_model_version_by_alias("tiny", alias)
        place = version.source.removeprefix(f"runs:/{version.run_id}/")
        folder = desk.paths.mlflow_artifacts / "tiny" / version.run_id / "artifacts" / place
        held[alias] = (folder / "data" / "vae" / "model.safetensors").read_text()
    assert held == {"champion": "the weights", "challenger": "other weights"}
