"""`mlflow server` processes to talk to and to kill."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEADLINE = 60  # of a machine that is busy with other tests


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
        wait_for(lambda: answers(f"{self.uri}/health"))

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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def wait_for(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)
