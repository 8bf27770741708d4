"""What is dear to make and only read: made once for all processes of pytest-xdist."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def once(request: pytest.FixtureRequest, name: str, make: Callable[[Path], object]) -> Path:
    """The folder that `make` has made of the path that it is given; nobody may change it."""
    base: Path = request.getfixturevalue("tmp_path_factory").getbasetemp()
    if hasattr(request.config, "workerinput"):  # each process has a folder in that of the run
        base = base.parent
    folder, made = base / name / "clone", base / name / "made"
    folder.parent.mkdir(exist_ok=True)
    with FileLock(folder.parent / "lock"):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # half of it, if making it has failed before
            make(folder)
            made.touch()
    return folder
