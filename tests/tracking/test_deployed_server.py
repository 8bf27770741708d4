"""The server that deploy/ describes: killed under a real sweep, filled by eight hosts at once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from ledgers import open_ledger
from records import START, Store, study, trial
from servers import DeployedServer, driven, wait_for

from pipeline.paths import Paths
from pipeline.settings.machine import Machine
from pipeline.settings.space import load_space
from pipeline.study.storage.ledger import storage_url
from pipeline.sync.mlflow_runs import Sweep
from pipeline.tracking.records import Run

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("deployed")]
ROOT = Path(__file__).parents[2]
USER, PASSWORD = "sweeper", "s3cret@with/signs:"
SPACE = """
data: {name: digits, limit: 500}
parameters: {lr: {low: 3.0e-3, high: 1.0e-2, log: true}, hidden: [64], latent_dim: 4, batch_size: 8}
search: {trials: 6, epochs: 20, parallelism: 2, pruner: none}
retrain: {top: 1, seeds: 2, epochs: 20}
evaluate: {iw_samples: 2, nelbo_samples: 1, probe: false}
render: {projections: [pca], points: 50, images: 2}
"""
HOSTS, TRIALS, EPOCHS = 8, 8, 20
Curves = dict[str, list[tuple[int, int, float]]]  # metric -> (step, ms, value)


@pytest.fixture(scope="module")
def server(
    postgres_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DeployedServer]:
    names = [f"{name}_{os.getpid()}" for name in ("mlflow", "mlflow_auth")]
    engine = sa.create_engine(
        driven(postgres_server), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
    )
    with engine.connect() as db:
        for name in names:
            db.execute(sa.text(f"CREATE DATABASE {name}"))
    url = sa.make_url(postgres_server)
    urls = [url.set(database=name).render_as_string(hide_password=False) for name in names]
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
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return server.uri.replace("://", f"://{USER}:{quote(PASSWORD, safe='')}@")


def checkout(folder: Path, tracking: str) -> Path:
    (folder / "search_spaces").mkdir(parents=True)
    (folder / "search_spaces" / "tiny.yaml").write_text(SPACE)
    (folder / "machine.yaml").write_text(f"tracking: '{tracking}'\nworkers: 1\n")
    return folder


def start(folder: Path, *argv: str) -> subprocess.Popen[bytes]:
    """The command line; what it says is in said.txt."""
    with (folder / "said.txt").open("ab") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline", *argv],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=said,
            stderr=said,
        )


def said(folder: Path) -> str:
    return (folder / "said.txt").read_text()


def outputs(folder: Path) -> dict[str, bytes]:
    base = folder / "runs" / "tiny"
    files = sorted(path for path in base.rglob("*") if path.is_file())
    return {str(path.relative_to(base)): path.read_bytes() for path in files}


def recorded(folder: Path) -> dict[str, Curves]:
    """The points that the ledger and the outputs hold, by run and metric; of figures the value."""
    paths = Paths(folder, "tiny")
    ledger = open_ledger(storage_url(Machine(), paths))
    return {
        run.key: curves(run) for run in Sweep(load_space(folder, "tiny"), paths, ledger).changes()
    }


def curves(run: Run) -> Curves:
    found: Curves = {}
    streamed = run.stream(None)[0] if run.stream else []
    for metric in [*run.metrics, *run.figures, *streamed]:
        found.setdefault(metric.key, []).append((metric.step, metric.timestamp_ms, metric.value))
    return found


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
        assert command.wait() == 0  # no stage waits for the server
    finally:
        command.kill()
        command.wait()
    assert "nothing is lost, `python -m pipeline sync tiny` goes on" in said(folder)
    arrived = server.query("SELECT run_uuid, key, step FROM metrics")
    server.start()
    assert start(folder, "sync").wait() == 0

    held = Store(address, None, folder / "cursor", "tiny").dump(artifacts=False)
    expected = recorded(folder)
    shown = {key: run["metrics"] for key, run in held.items()}
    for metrics in shown.values():  # the best so far was another while the sweep ran
        for key in metrics.keys() & {"search_best_nelbo_nats"}:
            metrics[key] = [(0, *metrics[key][-1][1:])]
    assert shown == expected
    assert len(held) == 1 + 6 + 2
    assert {run["info"][1] for run in held.values()} == {"FINISHED"}
    assert len(arrived) < sum(len(points) for run in expected.values() for points in run.values())
    assert outputs(folder) == outputs(undisturbed)

    texts = {"MLflow": str(held).encode(), "the server's log": server.log.read_bytes()}
    texts |= {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    del texts[str(folder / "machine.yaml")]
    for secret in (PASSWORD.encode(), quote(PASSWORD, safe="").encode()):
        assert [name for name, content in texts.items() if secret in content] == []


# Every host of a sweep mirrors all its records, with a cursor of its own. The processes are forked
# from one that has imported MLflow, so that they do meet.
HOST = f"""
import os, sys
from pathlib import Path
from records import START, study, trial
from pipeline.tracking.mirror import Mirror
from pipeline.tracking.store import MirrorUnavailable, connect
runs = [study(status="FINISHED", end_ms=START + 9), *(trial(n, {EPOCHS}) for n in range({TRIALS}))]
uri, folder = sys.argv[1:]
connect(uri)
for host in range({HOSTS}):
    if os.fork() == 0:
        try:
            Mirror(uri, None, Path(folder, f"cursor-{{host}}.json")).sync("hosts", runs)
            os._exit(0)
        except MirrorUnavailable as error:
            print(error, file=sys.stderr, flush=True)
        os._exit(1)
sys.exit(any(os.wait()[1] for host in range({HOSTS})))
"""


def test_eight_hosts_that_mirror_one_sweep_lose_and_double_nothing(
    server: DeployedServer, address: str, tmp_path: Path
) -> None:
    search = os.pathsep.join([str(Path(__file__).parent), str(ROOT)])
    hosts = [sys.executable, "-c", HOST, address, str(tmp_path)]
    assert subprocess.run(hosts, env=os.environ | {"PYTHONPATH": search}).returncode == 0

    runs = [study(status="FINISHED", end_ms=START + 9), *(trial(n, EPOCHS) for n in range(TRIALS))]
    store = Store(address, None, tmp_path / "cursor.json", "hosts")
    assert store.mirror().sync("hosts", runs).created == 0
    held = store.dump(artifacts=False)
    assert {key: run["metrics"] for key, run in held.items()} == {
        run.key: curves(run) for run in runs
    }
    assert {run["info"][1] for run in held.values()} == {"FINISHED"}
    doubled = "SELECT run_uuid FROM metrics GROUP BY run_uuid, key, step HAVING count(*) > 1"
    assert server.query(doubled) == []
