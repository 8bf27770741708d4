"""A host that stands still within a transaction; what its process imports is little."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event

from pipeline.study.storage.engine import open_storage, transaction

DEADLINE = 300.0  # of what would otherwise wait without end
spawn = multiprocessing.get_context("spawn")


def freeze_inside(url: str, inside: Event) -> None:
    """Locks the study and changes a trial in a transaction that it never ends."""
    engine = open_storage(url)
    with transaction(engine) as db:
        if db.dialect.name == "postgresql":
            db.exec_driver_sql("SELECT id FROM studies FOR UPDATE")
        db.exec_driver_sql("UPDATE trials SET reason = 'half'")
        inside.set()
        time.sleep(2 * DEADLINE)


@contextmanager
def frozen(url: str) -> Iterator[BaseProcess]:
    """A host that stands still within a transaction."""
    inside = spawn.Event()
    process = spawn.Process(target=freeze_inside, args=(url, inside))
    process.start()
    try:
        assert inside.wait(DEADLINE)
        assert process.pid
        os.kill(process.pid, signal.SIGSTOP)
        yield process
    finally:
        process.kill()
        process.join()
