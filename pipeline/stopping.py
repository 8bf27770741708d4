"""What asks work to stop: a signal, the end of the `dvc` that started it, a deadline."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from pipeline.deadline import now, shown

PARENT_SECONDS = 0.25
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, kill, a closed terminal


class Stop:
    """The requests to stop so far."""

    def __init__(self, until: datetime | None):
        self.signals: list[int] = []
        self._until = until

    @property
    def asked(self) -> bool:
        """Whether work should end after the current epochs."""
        return bool(self.signals) or self._late

    @property
    def urgent(self) -> bool:
        """Whether it should end at once: the second request."""
        return len(self.signals) + self._late > 1

    @property
    def reason(self) -> str:
        """What has happened, to be followed by how far the work has come."""
        if self.signals or not self._until:
            return "interrupted"
        return f"stopped at {shown(self._until)}, its time limit,"

    @property
    def _late(self) -> bool:
        return self._until is not None and now() >= self._until


@contextmanager
def stop_requests(until: datetime | None) -> Iterator[Stop]:
    """Collects requests within the block. A hang-up that is ignored, as by nohup, remains so."""
    stop, over = Stop(until), threading.Event()
    before = {kind: signal.getsignal(kind) for kind in SIGNALS}
    for kind, handler in before.items():
        if kind != signal.SIGHUP or handler != signal.SIG_IGN:
            signal.signal(kind, lambda number, _: stop.signals.append(number))
    if "DVC_STAGE" in os.environ:
        threading.Thread(target=_watch_parent, args=(os.getppid(), over), daemon=True).start()
    try:
        yield stop
    finally:
        over.set()
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _watch_parent(parent: int, over: threading.Event) -> None:
    """A killed dvc leaves its stage running; the next dvc would be a second writer."""
    while not over.wait(PARENT_SECONDS):
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
            return
