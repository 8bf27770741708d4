"""Signals that tell a worker to leave, heard before anything heavy is imported."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

from pipeline.errors import Stopped

# TERM: kill, and what clusters send before the end. USR1, USR2: what they can be told to send.
# HUP: a closed terminal.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)


class Told:
    """Whether a worker was told to leave; `then` is called when it is."""

    def __init__(self) -> None:
        self.leave = False
        self.then: Callable[[], None] = lambda: None

    def _hear(self, *_: object) -> None:
        self.leave = True
        self.then()
        outages = sys.modules.get("pipeline.study.storage.outages")  # late: it imports sqlalchemy
        if outages and outages.is_waiting():  # nobody would look at it
            raise Stopped


def listen(*, alone: bool) -> Told:
    """Hears from now on. Ctrl-C is a parent's to handle, unless the worker was started `alone`.

    A hang-up that is ignored, as by nohup, remains so.
    """
    told = Told()
    for kind in SIGNALS:
        if kind != signal.SIGHUP or signal.getsignal(kind) != signal.SIG_IGN:
            signal.signal(kind, told._hear)
    signal.signal(signal.SIGINT, told._hear if alone else signal.SIG_IGN)
    return told
