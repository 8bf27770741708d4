"""Without /proc and without the affinity of processes, as on macOS: nothing else changes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from crews import ROOT, Sweep, no_one_left

# What Python runs first. psutil itself reads /proc here, and is another one there.
ELSEWHERE = """
import builtins, io, os, sys

del os.sched_getaffinity, os.sched_setaffinity

def hidden(path):
    if not isinstance(path, (str, bytes, os.PathLike)):
        return False
    if not os.fsdecode(path).startswith("/proc"):
        return False
    frame = sys._getframe(1)
    while frame:
        if "psutil" in frame.f_code.co_filename:
            return False
        frame = frame.f_back
    return True

def without(function):
    def called(path, *arguments, **options):
        if hidden(path):
            raise FileNotFoundError(2, "there is no /proc here", str(path))
        return function(path, *arguments, **options)
    return called

builtins.open = io.open = without(io.open)
for name in ("stat", "lstat", "readlink", "listdir", "scandir", "open"):
    setattr(os, name, without(getattr(os, name)))
"""


@pytest.fixture
def elsewhere(tmp_path: Path) -> str:
    """A PYTHONPATH with which the commands run on such a system."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(ELSEWHERE)
    path = f"{folder}:{ROOT}"
    code = (
        "import os, pathlib, psutil; assert not hasattr(os, 'sched_getaffinity');"
        " assert not pathlib.Path('/proc/self/stat').exists(); psutil.Process().create_time()"
    )
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, check=True)
    return path


@pytest.mark.slow
def test_a_search_and_what_looks_at_it(tiny: Sweep, undisturbed: Sweep, elsewhere: str) -> None:
    process = tiny.start("search", 2, PYTHONPATH=elsewhere, OMP_NUM_THREADS="3")
    with no_one_left(process):
        assert process.wait() == 0, tiny.errors
    assert tiny.tables() == undisturbed.tables()
    said = [line for line in tiny.errors.splitlines() if "OMP_NUM_THREADS=3 is not used" in line]
    assert len(said) == 1
    (tiny.root / "machine.yaml").write_text("tracking: none\n")
    for command in (["status"], ["list"]):
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", *command],
            cwd=tiny.root,
            env={**os.environ, "PYTHONPATH": elsewhere},
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_a_benchmark_names_its_machine(elsewhere: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from bench.hardware import _processor; print(_processor())"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": elsewhere},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == os.uname().machine
