"""The commands that bring MLflow up to date: live beside a sweep, and by hand."""

from __future__ import annotations

import re
import signal
from functools import partial
from pathlib import Path

import pytest
from records import Store, more_rows
from servers import Server, wait_for
from sweeps import Desk

from pipeline import sync
from pipeline.config import Machine
from pipeline.tracking.store import store_of

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
TRIALS = 60
POINTS = 11  # of a trial: three epochs with three metrics, and two best values


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the commands that tests start find."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_a_mirror_that_the_command_cannot_wait_for_is_continued_where_it_was(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    desk = Desk(tmp_path / "checkout", Machine(tracking=server.uri))
    for _ in range(TRIALS):
        desk.complete(desk.study)
    monkeypatch.setattr(sync, "CATCH_UP_SECONDS", 0.1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "600")
    with sync.following(desk.space, desk.machine, desk.paths, "prepare"):
        wait_for(partial(more_rows, tmp_path / "server.db", "runs", 10))
        server.signal(signal.SIGSTOP)
    server.signal(signal.SIGCONT)
    assert "`python -m pipeline sync tiny` sends the rest" in capfd.readouterr().err

    said = sync.sync_all(desk.root, desk.machine, "tiny", rebuild=False)
    sent = re.search(r"(\d+) metric points", said)
    assert sent
    assert 0 < int(sent[1]) < (TRIALS - 8) * POINTS  # nine trials at least had arrived whole
    held = Store(*store_of(desk.machine, desk.paths), "tiny").dump()
    assert len(held) == 1 + TRIALS
    for run in held.values():
        assert run["info"][1] == "FINISHED"
        assert all(len(points) in (1, 3) for points in run["metrics"].values())
