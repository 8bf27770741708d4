"""A private PostgreSQL server that is stopped, started and killed at will."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path

import pytest
from surroundings import free_port

BINARIES = Path("/usr/lib/postgresql")  # where Debian puts them, by version


class Postgres:
    """A server on a free port of the loopback interface, with its data in `folder`."""

    def __init__(self, folder: Path):
        versions = sorted(BINARIES.glob("*/bin/initdb"))
        if not versions:
            pytest.skip(f"{BINARIES}/*/bin/initdb does not exist")
        self._folder, self._binaries = folder, versions[-1].parent
        self._prefix: list[str] = []
        if os.getuid() == 0:  # PostgreSQL refuses root
            if not shutil.which("setpriv"):
                pytest.skip("PostgreSQL refuses to run as root, and setpriv is not there")
            user = pwd.getpwnam("nobody")
            os.chown(folder, user.pw_uid, user.pw_gid)
            self._prefix = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}",
                            "--clear-groups"]  # fmt: skip
        self.port = free_port()
        self.url = f"postgresql://tester@127.0.0.1:{self.port}/postgres"
        trusting = ("-U", "tester", "--auth=trust", "--no-sync")
        self._run("initdb", "-D", folder / "data", *trusting)

    def start(self) -> None:
        """Returns when it answers."""
        options = (
            f"-p {self.port} -F -c listen_addresses=127.0.0.1"
            f" -c unix_socket_directories={self._folder}"
        )
        self._control("-l", self._folder / "log", "-o", options, "start")

    def stop(self) -> None:
        """At once, as in a power cut: every connection breaks."""
        self._control("-m", "immediate", "stop")

    @property
    def pid(self) -> int:
        """Its first process."""
        return int((self._folder / "data" / "postmaster.pid").read_text().split()[0])

    def _control(self, *arguments: object) -> None:
        self._run("pg_ctl", "-D", self._folder / "data", "-w", *arguments)

    def _run(self, program: str, *arguments: object) -> None:
        command = [*self._prefix, str(self._binaries / program), *map(str, arguments)]
        subprocess.run(command, check=True, cwd=self._folder, stdout=subprocess.DEVNULL)
