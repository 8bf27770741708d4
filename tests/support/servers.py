"""`mlflow server` processes to talk to and to kill, among them the one that deploy/ describes."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from surroundings import free_port

DEPLOY = Path(__file__).parents[2] / "deploy"
ADMIN = ("admin", "administrator's own")
DEADLINE = 300  # of a machine that is busy with other tests


class Server:
    """`mlflow server` with these options on a free port of the loopback interface."""

    def __init__(self, folder: Path, options: list[str], **environment: str) -> None:
        port = free_port()
        self.uri = f"http://127.0.0.1:{port}"
        self.log = folder / "server.log"
        self._argv = [sys.executable, "-m", "mlflow", "server", *options, "--port", str(port)]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        self._environment = os.environ | quiet | environment
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        wait_for(lambda: answers(f"{self.uri}/health"), self._process, self.log)

    def kill(self) -> None:
        """Without warning."""
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def signal(self, number: int) -> None:
        """To it and its worker processes: the session is its own."""
        assert self._process is not None
        os.killpg(self._process.pid, number)


class DeployedServer(Server):
    """The server of deploy/mlflow.service and deploy/basic_auth.ini: PostgreSQL and passwords."""

    def __init__(self, folder: Path, store: str, users: str) -> None:
        """`store` and `users` are URLs of two PostgreSQL databases."""
        unit = (DEPLOY / "mlflow.service").read_text().replace("\\\n", " ")
        environment = dict(re.findall(r"^Environment=(\w+)=(.*)$", unit, re.MULTILINE))
        start = re.search(r"^ExecStart=(.*)$", unit, re.MULTILINE)
        assert start is not None
        options = shlex.split(start[1])[2:]
        config = (DEPLOY / "basic_auth.ini").read_text()
        (folder / "basic_auth.ini").write_text(
            re.sub("(?m)^database_uri = .*$", f"database_uri = {driven(users)}", config)
        )
        self.store = store
        here = {
            "MLFLOW_BACKEND_STORE_URI": driven(store),
            "MLFLOW_AUTH_CONFIG_PATH": str(folder / "basic_auth.ini"),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "of these tests",
            "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN[1],
        }
        artifacts = ["--artifacts-destination", str(folder / "artifacts")]
        super().__init__(folder, options + artifacts, **environment | here)

    def add_user(self, name: str, password: str) -> None:
        """As deploy/README.md does it."""
        user = json.dumps({"username": name, "password": password}).encode()
        request = urllib.request.Request(f"{self.uri}/api/2.0/mlflow/users/create", user)
        request.add_header("Content-Type", "application/json")
        credentials = base64.b64encode(":".join(ADMIN).encode()).decode()
        request.add_header("Authorization", f"Basic {credentials}")
        urllib.request.urlopen(request, timeout=60).close()

    def query(self, statement: str) -> list[Any]:
        """Rows of the database behind it, also while it is down."""
        engine = sa.create_engine(driven(self.store), poolclass=sa.NullPool)
        with engine.connect() as db:
            return list(db.execute(sa.text(statement)))


def driven(url: str) -> str:
    """The URL with the driver that the unit names."""
    return url.replace("postgresql://", "postgresql+psycopg://")


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def wait_for(
    condition: Callable[[], Any],
    process: subprocess.Popen[Any] | None = None,
    log: Path | None = None,
) -> None:
    """Until it holds. Fails when the process that is to bring it about has ended; says its log."""
    end = time.monotonic() + DEADLINE
    while not condition():
        ended = process is not None and process.poll() is not None
        if ended or time.monotonic() > end:
            what = f"{process.args} ended with {process.poll()}" if process else "nothing happened"
            raise AssertionError(f"{what}\n{log.read_text() if log else ''}")
        time.sleep(0.05)
