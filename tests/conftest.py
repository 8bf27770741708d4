"""Fixtures of several test files: the storages that a ledger can have, and a tiny sweep."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from desk import Desk
from ledgers import named
from once import once
from postgres import Postgres

from pipeline import own_code
from pipeline.study.storage import engine, ledger

if TYPE_CHECKING:
    from cluster import Cluster
    from crews import Sweep
    from worked import Worked

numbers = itertools.count()
connect = engine._sqlite
engine._sqlite = lambda url: named(connect(url))
# Else children ignore them, too, where nohup or a shell's background began us.
HANDLERS = {signal.SIGHUP: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
for kind, handler in HANDLERS.items():
    signal.signal(kind, handler)


@pytest.hookimpl(trylast=True)  # of the tests that were chosen
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of many tests last: theirs are short, so that all processes end at about the same time.

    Those of one or two tests are storms and whole pipelines.
    """
    counts = Counter(item.path for item in items)
    items.sort(key=lambda item: counts[item.path])


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a fresh database, in SQLite and in PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    return request.getfixturevalue("postgres_storage")


@pytest.fixture(autouse=True)
def impatient() -> Iterator[None]:
    """`be_patient` is for the rest of a process, which tests share, and fixtures of a session."""
    os.environ.pop("MLFLOW_HTTP_REQUEST_TIMEOUT", None)
    yield
    os.environ.pop("MLFLOW_HTTP_REQUEST_TIMEOUT", None)


@pytest.fixture(autouse=True)
def nothing_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is asked lets packages lie anywhere for the rest of a process."""
    monkeypatch.setattr(own_code, "_served", False)


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """The command `worker` has a process of its own, and listens until that ends."""
    kinds = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    before = {kind: signal.getsignal(kind) for kind in kinds}
    yield
    for kind, handler in before.items():
        signal.signal(kind, handler)


@pytest.fixture
def desk(storage: str) -> Desk:
    """A ledger with one study in either storage."""
    return Desk(storage)


@pytest.fixture
def tiny(tmp_path: Path) -> Sweep:
    """A sweep that nobody has worked on."""
    from crews import make_sweep  # late: it imports torch, which most test files do without

    return make_sweep(tmp_path / "clone")


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """The sweep's search by one worker to whom nothing happens."""
    from crews import make_sweep

    made = make_sweep(tmp_path_factory.mktemp("undisturbed") / "clone")
    assert made.worker().work() == 0
    return made


@pytest.fixture(scope="session")
def worked(request: pytest.FixtureRequest) -> Worked:
    """A finished sweep, from prepare to the report and to MLflow; to be copied, not changed.

    Nor is a database in it to be opened, which leaves files beside it while others copy.
    """
    from worked import Worked, work_through

    return Worked(once(request, "worked", work_through))


@pytest.fixture
def expire(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From now on leases have run out when they are granted; called again, they last."""
    lengths = itertools.cycle([-1.0, 60.0])
    monkeypatch.setattr(ledger, "FORGIVING_SECONDS", 0.0)  # PostgreSQL has just been started
    return lambda: monkeypatch.setattr(ledger, "LEASE_SECONDS", next(lengths))


@pytest.fixture
def postgres_storage(postgres_server: str) -> Iterator[str]:
    """The URL of a fresh PostgreSQL database."""
    import psycopg
    import sqlalchemy as sa

    name = f"test_{os.getpid()}_{next(numbers)}"
    with psycopg.connect(postgres_server, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}".encode())
        yield sa.make_url(postgres_server).set(database=name).render_as_string(hide_password=False)
        server.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a database of PIPELINE_TEST_POSTGRES, or else of a private server."""
    if url := os.environ.get("PIPELINE_TEST_POSTGRES"):
        yield url
        return
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        server = Postgres(folder)
        server.start()
        try:
            yield server.url
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A running server of the test's own, to be stopped and started."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        server = Postgres(folder)
        server.start()
        try:
            yield server
        finally:
            with suppress(subprocess.CalledProcessError):  # it stands still already
                server.stop()
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A Slurm of two nodes; a test leaves no job behind."""
    from cluster import Cluster  # late, as above

    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: a socket's path is
    try:
        made = Cluster(folder)
        try:
            made.up()
            yield made
        finally:
            made.down()
    finally:
        shutil.rmtree(folder)
