"""The server that deploy/ describes, under a real sweep and under eight mirrors at once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from records import START, Store, study, trial
from servers import DeployedServer, driven, wait_for

from pipeline.config import Machine, load_space
from pipeline.paths import Paths
from pipeline.records import Sweep
from pipeline.study.ledger import Ledger, storage_url
from pipeline.tracking.run import Run

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
USER, PASSWORD = "sweeper", "s3cret@with/signs:"
SPACE = """
data: {name: digits, limit: 500}
parameters: {lr: {low: 3.0e-3, high: 1.0e-2, log: true}, hidden: [64], latent_dim: 4, batch_size: 8}
search: {trials: 6, epochs: 25, parallelism: 2, pruner: none}
retrain: {top: 1, seeds: 2, epochs: 25}
evaluate: {iw_samples: 2, nelbo_samples: 1, probe: false}
render: {projections: [pca], points: 50, images: 2}
"""
MIRRORS, TRIALS, EPOCHS = 8, 8, 20
Curves = dict[str, list[tuple[int, int, float]]]  # metric -> (step, ms, value)


@pytest.fixture(scope="module")
def server(
    postgres_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DeployedServer]:
    urls = []
    for name in ("mlflow", "mlflow_auth"):
        engine = sa.create_engine(driven(postgres_server), isolation_level="AUTOCOMMIT")
        with engine.connect() as db:
            db.execute(sa.text(f"CREATE DATABASE {name}_{os.getpid()}"))
        engine.dispose()
        url = sa.make_url(postgres_server).set(database=f"{name}_{os.getpid()}")
        urls.append(url.render_as_string(hide_password=False))
    server = DeployedServer(tmp_path_factory.mktemp("deployed"), *urls)
    try:
        server.start()
        server.add_user(USER, PASSWORD)
        yield server
    finally:
        server.kill()


@pytest.fixture
def address(server: DeployedServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The server's URL with name and password, and patience for a busy machine."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    return server.uri.replace("://", f"://{USER}:{quote(PASSWORD, safe='')}@")


def checkout(folder: Path, tracking: str) -> Path:
    (folder / "search_spaces").mkdir(parents=True)
    (folder / "search_spaces" / "tiny.yaml").write_text(SPACE)
    (folder / "machine.yaml").write_text(f"tracking: '{tracking}'\nworkers: 1\n")
    return folder


def start(folder: Path, *argv: str) -> subprocess.Popen[bytes]:
    """The command line; what it says is in said.txt."""
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    with (folder / "said.txt").open("ab") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline", *argv],
            cwd=folder,
            env=environment | {"PYTHONPATH": str(ROOT)},
            stdout=said,
            stderr=said,
        )


def outputs(folder: Path) -> dict[str, bytes]:
    base = folder / "runs" / "tiny"
    files = sorted(path for path in base.rglob("*") if path.is_file())
    return {str(path.relative_to(base)): path.read_bytes() for path in files}


def recorded(folder: Path) -> dict[str, Curves]:
    """The points that the ledger and the outputs hold, by run and metric."""
    paths = Paths(folder, "tiny")
    ledger = Ledger(storage_url(Machine(), paths))
    sweep = Sweep(load_space(folder, "tiny"), paths, ledger, live=False)
    points = {run.key: by_metric(run) for run in sweep.records()}
    ledger.close()
    return points


def by_metric(run: Run) -> Curves:
    curves: Curves = {}
    for metric in run.metrics:
        curves.setdefault(metric.key, []).append((metric.step, metric.timestamp_ms, metric.value))
    return curves


def test_a_server_killed_amid_a_sweep_ends_up_with_everything_once(
    server: DeployedServer, address: str, tmp_path: Path
) -> None:
    undisturbed = checkout(tmp_path / "undisturbed", "none")
    assert start(undisturbed, "run", "tiny").wait() == 0
    folder = checkout(tmp_path / "sweep", address)
    command = start(folder, "run", "tiny")
    try:
        wait_for(lambda: server.query("SELECT 1 FROM metrics LIMIT 1"))
        server.kill()
        assert command.poll() is None
        wait_for((folder / "runs/tiny/search/best.json").exists)  # no trial waits for the server
        server.start()
        assert command.wait() == 0
    finally:
        command.kill()
        command.wait()
    assert start(folder, "sync", "tiny").wait() == 0

    held = Store(address, None, folder / "cursor", "tiny").dump()
    assert {key: run["metrics"] for key, run in held.items()} == recorded(folder)
    assert len(held) == 1 + 6 + 2
    assert {run["info"][1] for run in held.values()} == {"FINISHED"}
    assert outputs(folder) == outputs(undisturbed)
    assert_no_password(held, server, folder)


def assert_no_password(held: dict[str, Any], server: DeployedServer, folder: Path) -> None:
    """machine.yaml alone has it."""
    assert "Traceback" not in (folder / "said.txt").read_text()
    shown = {"MLflow": str(held).encode(), "the server's log": server.log.read_bytes()}
    shown |= {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    del shown[str(folder / "machine.yaml")]
    for secret in (PASSWORD.encode(), quote(PASSWORD, safe="").encode()):
        assert [name for name, content in shown.items() if secret in content] == []


def test_a_wrong_password_is_one_line(address: str, server: DeployedServer, tmp_path: Path) -> None:
    folder = checkout(tmp_path / "sweep", server.uri.replace("://", f"://{USER}:wrong-one@"))
    assert start(folder, "sync", "tiny").wait() == 0
    said = (folder / "said.txt").read_text()
    assert said.count("\n") == 1
    assert "401" in said
    assert "wrong-one" not in said


# What every host of one sweep does: mirrors all its records, with a state file of its own.
MIRROR = f"""
import sys
from pathlib import Path
from records import START, study, trial
from pipeline.tracking.mirror import Mirror
from pipeline.tracking.store import MirrorUnavailable
runs = [study(status="FINISHED", end_ms=START + 9), *(trial(n, {EPOCHS}) for n in range({TRIALS}))]
mirror = Mirror(sys.argv[1], None, Path(sys.argv[2]))
for attempt in range(5):  # a run of which another host was the first may vanish under us
    try:
        mirror.sync("hosts", runs)
        break
    except MirrorUnavailable as error:
        print(error, file=sys.stderr)
else:
    sys.exit(1)
"""


def test_eight_hosts_that_mirror_one_sweep_lose_and_double_nothing(
    address: str, server: DeployedServer, tmp_path: Path
) -> None:
    search = os.pathsep.join([str(Path(__file__).parent), str(ROOT)])
    mirrors = [
        subprocess.Popen(
            [sys.executable, "-c", MIRROR, address, str(tmp_path / f"cursor-{host}.json")],
            env=os.environ | {"PYTHONPATH": search},
        )
        for host in range(MIRRORS)
    ]
    assert [mirror.wait() for mirror in mirrors] == [0] * MIRRORS
    runs = [study(status="FINISHED", end_ms=START + 9), *(trial(n, EPOCHS) for n in range(TRIALS))]
    store = Store(address, None, tmp_path / "cursor.json", "hosts")
    assert store.mirror().sync("hosts", runs).created == 0
    held = store.dump()
    assert len(held) == 1 + TRIALS
    for run in runs:
        assert held[run.key]["metrics"] == by_metric(run)
        assert held[run.key]["info"][1] == "FINISHED"
    doubled = "SELECT run_uuid FROM metrics GROUP BY run_uuid, key, step HAVING count(*) > 1"
    assert server.query(doubled) == []
