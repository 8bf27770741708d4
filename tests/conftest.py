"""Fixtures of several test files: the storages that a ledger can have, and a tiny sweep."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from desk import Desk

from pipeline.study import ledger

if TYPE_CHECKING:
    from crews import Sweep

BINARIES = Path("/usr/lib/postgresql")  # where Debian puts them, by version
numbers = itertools.count()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a fresh database, in SQLite and in PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    return request.getfixturevalue("postgres_storage")


@pytest.fixture
def desk(storage: str) -> Iterator[Desk]:
    """A ledger with one study in either storage."""
    desk = Desk(storage)
    yield desk
    desk.ledger.close()


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


@pytest.fixture
def expire(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From now on leases have run out when they are granted; called again, they last."""
    lengths = itertools.cycle([-1.0, 60.0])
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
    versions = sorted(BINARIES.glob("*/bin/initdb"))
    if not versions:
        pytest.skip(f"PIPELINE_TEST_POSTGRES is not set and {BINARIES}/*/bin/initdb does not exist")
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        run = _as_user(folder)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        binaries, data = versions[-1].parent, folder / "data"
        run(binaries / "initdb", "-D", data, "-U", "tester", "--auth=trust", "--no-sync")
        options = f"-p {port} -F -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
        control = (binaries / "pg_ctl", "-D", data, "-w")
        run(*control, "-l", folder / "log", "-o", options, "start")
        try:
            yield f"postgresql://tester@127.0.0.1:{port}/postgres"
        finally:
            run(*control, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


def _as_user(folder: Path) -> Callable[..., None]:
    """Runs commands as ourselves or, as PostgreSQL refuses root, as another owner of `folder`."""
    prefix: list[str] = []
    if os.getuid() == 0:
        if not shutil.which("setpriv"):
            pytest.skip("PostgreSQL refuses to run as root, and setpriv is not there")
        user = pwd.getpwnam("nobody")
        os.chown(folder, user.pw_uid, user.pw_gid)
        prefix = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]

    def run(*command: object) -> None:
        subprocess.run(
            [*prefix, *map(str, command)], check=True, cwd=folder, stdout=subprocess.DEVNULL
        )

    return run
