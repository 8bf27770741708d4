"""The mirror among real processes: servers that die, mirrors that die, mirrors that race."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from records import START, Store, copy_db, curve, more_rows, study, trial
from requests.adapters import HTTPAdapter
from servers import DEADLINE, Server, wait_for

from pipeline.sync.champion import judge
from pipeline.tracking.records import Run
from pipeline.tracking.registry import Score, Winner, register
from pipeline.tracking.store import TIMEOUT_SECONDS, MirrorUnavailable

pytestmark = pytest.mark.slow

EPOCHS = 30
TRIALS = 25
ONE_TRY = (TIMEOUT_SECONDS, 0)


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    (tmp_path / "table.csv").write_text("a,b\n")
    files = {"tables/table.csv": tmp_path / "table.csv"}
    trials = [trial(n, epochs=EPOCHS, artifacts=files) for n in range(TRIALS)]
    return [study(status="FINISHED", end_ms=START + 9), *trials]


@pytest.fixture
def failed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    """The requests without an answer: the seconds and the retries that they were given."""
    found, send = [], HTTPAdapter.send

    def sent(adapter: HTTPAdapter, *given: Any, **options: Any) -> Any:
        try:
            return send(adapter, *given, **options)
        except OSError:
            found.append((options["timeout"], adapter.max_retries.total))
            raise

    monkeypatch.setattr(HTTPAdapter, "send", sent)
    return found


def assert_complete(held: dict[str, Any]) -> None:
    assert len(held) == TRIALS + 1
    for number in range(TRIALS):
        run = held[f"fashion-1a2b/{number}"]
        assert run["info"][1] == "FINISHED"
        assert run["parent"] == "fashion-1a2b"
        assert run["artifacts"].keys() == {"tables/table.csv"}
        expected = [(m.step, m.timestamp_ms, m.value) for m in curve(EPOCHS)]
        assert run["metrics"] == {"nelbo_nats": expected, "kl_nats": expected}


def test_a_server_killed_twice_amid_a_sync_ends_up_with_everything_once(
    server: Server,
    empty_db: Path,
    runs: list[Run],
    failed: list[tuple[float, int]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    store = Store(server.uri, None, tmp_path / "cursor.json")
    for points in (EPOCHS * TRIALS // 2, EPOCHS * TRIALS):  # of twice as many
        failed.clear()
        there = partial(more_rows, tmp_path / "server.db", "metrics", points)
        with monkeypatch.context() as patched:
            kill = killed_at_a_request(server, there, patched)
            with suppress(MirrorUnavailable):
                store.mirror().sync(store.name, runs)
        kill.join()
        assert failed == [ONE_TRY]
        server.start()
    store.mirror().sync(store.name, runs)
    held = store.dump()
    assert_complete(held)

    store.cursor.unlink()  # and all of it once more, over what is there
    store.mirror().sync(store.name, runs)
    assert store.dump() == held

    copy_db(empty_db, tmp_path / "local.db")  # a rebuild elsewhere is equal
    local = Store(f"sqlite:///{tmp_path / 'local.db'}", tmp_path / "files", store.cursor)
    local.mirror().sync(local.name, runs)
    assert local.dump() == held


def killed_at_a_request(
    server: Server, due: Callable[[], bool], patched: pytest.MonkeyPatch
) -> threading.Thread:
    """Kills the server while it is asked something, the first time that it is due."""
    kill, send = threading.Thread(target=server.kill), HTTPAdapter.send

    def sent(adapter: HTTPAdapter, *given: Any, **options: Any) -> Any:
        if kill.ident is None and due():
            kill.start()
        return send(adapter, *given, **options)

    patched.setattr(HTTPAdapter, "send", sent)
    return kill


def test_a_server_that_hangs_costs_a_sync_one_request_and_duplicates_nothing(
    server: Server, runs: list[Run], failed: list[tuple[float, int]], tmp_path: Path
) -> None:
    store = Store(server.uri, None, tmp_path / "cursor.json")
    store.mirror().sync(store.name, runs[:3])
    server.signal(signal.SIGSTOP)
    with pytest.raises(MirrorUnavailable, match="timed out"):
        store.mirror().sync(store.name, runs)
    assert failed == [ONE_TRY]
    server.signal(signal.SIGCONT)  # it now works off the requests that nobody waits for
    for _ in range(2):
        store.mirror().sync(store.name, runs)
    assert_complete(store.dump())


def test_a_server_takes_large_batches_and_registers_models(server: Server, tmp_path: Path) -> None:
    store = Store(server.uri, None, tmp_path / "cursor.json")
    params = {f"p{i}": "é" * 7000 for i in range(130)}  # 5 MB of JSON, of which a request holds 1
    tags = {f"t{i}": "é" * 9000 for i in range(110)}
    big = study(params=params, tags=tags, metrics=curve(2500), status="FINISHED", end_ms=START)
    report = store.mirror().sync(store.name, [big])
    held = store.dump()["fashion-1a2b"]
    assert len(held["params"]) == 130
    assert tags.keys() <= held["tags"].keys()
    assert len(held["metrics"]["nelbo_nats"]) == 2500

    winner = Winner(report.run_ids[big.key], "model", "a", Score(240.0, 1.0, 3, "d", "bernoulli"))
    first = register(server.uri, "fashion", winner, judge)
    assert (first.version, first.champion) == (1, True)
    assert register(server.uri, "fashion", winner, judge) == first


# One mirror of the records of `runs` in a process of its own: `python -c … URI ROOT CURSOR`.
MIRROR = f"""
import sys
from pathlib import Path
from records import START, study, trial
from pipeline.tracking import mirror
mirror.SAVE_SECONDS = 0.0
files = {{"tables/table.csv": Path("table.csv")}}
trials = [trial(n, epochs={EPOCHS}, artifacts=files) for n in range({TRIALS})]
runs = [study(status="FINISHED", end_ms=START + 9), *trials]
uri, root, cursor = sys.argv[1:]
mirror.Mirror(uri, Path(root), Path(cursor)).sync("fashion", runs)
"""


def start_mirror(uri: str, folder: Path) -> subprocess.Popen[str]:
    here = Path(__file__)
    search = os.pathsep.join([str(here.parent), str(here.parents[2])])
    return subprocess.Popen(
        [sys.executable, "-c", MIRROR, uri, str(folder / "files"), str(folder / "cursor.json")],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": search},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_mirror_killed_amid_a_sync_is_continued_where_it_was(
    empty_db: Path, runs: list[Run], tmp_path: Path
) -> None:
    db = tmp_path / "mlflow.db"
    copy_db(empty_db, db)
    store = Store(f"sqlite:///{db}", tmp_path / "files", tmp_path / "cursor.json")
    mirror = start_mirror(store.uri, tmp_path)
    wait_for(partial(more_rows, db, "metrics", EPOCHS * TRIALS // 2))
    mirror.kill()
    mirror.communicate()
    assert not more_rows(db, "runs", TRIALS)
    missing = 2 * EPOCHS * (TRIALS - 6)  # six trials at least had arrived whole
    assert store.mirror().sync(store.name, runs).metrics <= missing
    assert_complete(store.dump())


def test_two_mirrors_create_one_store_together(runs: list[Run], tmp_path: Path) -> None:
    """The store does not exist; they share the cursor, as processes of one checkout do."""
    uri, cursor = f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "cursor.json"
    mirrors = [start_mirror(uri, tmp_path) for _ in range(2)]
    errors = [mirror.communicate(timeout=DEADLINE)[1] for mirror in mirrors]
    assert errors == ["", ""]
    assert_complete(Store(uri, tmp_path / "files", cursor).dump())
