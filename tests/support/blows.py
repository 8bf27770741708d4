"""Whom a blow of `habits.py` may hit, and faults that are thrown into trainings."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

FAULTS = """
import os, sys
if "worker" in sys.orig_argv and os.environ.get("FAULT"):
    from pathlib import Path
    from pipeline.vae.training import Training
    error, times = os.environ["FAULT"].split(":")
    left, run_epoch = Path(times), Training.run_epoch

    def fail(training, *leaves):
        if len(training.records) == 1 and left.exists():
            left.unlink(missing_ok=True)
            raise OSError(5, "Input/output error") if error == "EIO" else MemoryError("3 GiB")
        return run_epoch(training, *leaves)

    Training.run_epoch = fail
"""


def once(action: Callable[[], object]) -> Callable[[int], bool]:
    """An action as a blow that has always struck."""

    def blow(_: int) -> bool:
        action()
        return True

    return blow


def family(pid: int) -> list[psutil.Process]:
    """A process and all that it has started."""
    with suppress(psutil.NoSuchProcess):
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    return []


def words(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return [Path(word).name for word in process.cmdline()]
    return []
