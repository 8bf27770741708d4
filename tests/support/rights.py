"""A test in the place of a person: root reads and writes whatever a file's mode says."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

VERSION = 0x20080522  # of capset(2), with 64 capabilities
PASSES_OVER_MODES = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH

# As a command that root gives too, so that modes of files hold for it.
needs_a_person = pytest.mark.skipif(
    os.getuid() == 0 and not shutil.which("setpriv"), reason="root may write all"
)
PERSON = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.getuid() == 0 else []


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


@contextmanager
def as_a_person() -> Iterator[None]:
    """Modes of files hold for this thread, also if it is root's, and for threads that it starts.

    A command that it executes is root again.
    """
    if os.getuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, now = _Header(VERSION, 0), (_Sets * 2)()
    if libc.capget(ctypes.byref(header), now):
        raise OSError(ctypes.get_errno(), "capget")
    before = now[0].effective
    try:
        _set(libc, now, before & ~PASSES_OVER_MODES)
        yield
    finally:
        _set(libc, now, before)


def _set(libc: ctypes.CDLL, sets: ctypes.Array[_Sets], effective: int) -> None:
    sets[0].effective = effective
    header = _Header(VERSION, 0)
    if libc.capset(ctypes.byref(header), sets):
        raise OSError(ctypes.get_errno(), "capset")


@contextmanager
def write_protected(root: Path) -> Iterator[None]:
    """A folder as a second user of it sees it, who may read and run all and write nothing."""
    everything = [root, *root.rglob("*")]
    for path in everything:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        yield
    finally:
        for path in everything:
            path.chmod(0o755 if path.is_dir() else 0o644)


def give_as_a_person(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Gives a command of the pipeline in `root` to a process for which modes hold."""
    return subprocess.run(
        [*PERSON, sys.executable, "-m", "pipeline", *command],
        cwd=root,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
