"""What asks work to stop: a signal, the end of the `dvc` that started it, a deadline."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from pipeline.errors import OutOfTime, Stopped
from pipeline.settings import deadline
from pipeline.study.storage.outages import is_waiting

PARENT_SECONDS = 0.25
GRACE_SECONDS = 15.0  # for workers to end a step and save, of which either is a second or less
AGAIN_SECONDS = 5.0  # Python drops what is raised within callbacks, as of its import locks
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, kill, a closed terminal


class Stop:
    """The requests to stop so far."""

    def __init__(self, until: datetime | None, late: Callable[[], bool] | None = None):
        """`late` says that the share of the time is used up which this work has of a whole."""
        self.signals: list[int] = []
        self.rang = False  # the alarm of `ends_at`
        self._twice = False  # a signal after the first request
        self._until = until
        self._share_is_over = late or (lambda: False)
        self._over_since: float | None = None  # the share of the time, or all; it stays so

    def hear(self, number: int) -> None:
        """Takes a signal. The deadline itself is no one's second request, whenever it passes.

        Nor is a second hang-up: a closed terminal sends one by its shell and one by the kernel.
        Raises Stopped where nobody looks at it: while the storage is waited for.
        """
        if number == signal.SIGHUP in self.signals:
            return
        self._twice = self._twice or self.asked
        self.signals.append(number)
        if is_waiting():
            raise Stopped

    def ring(self, alarm: Callable[[int, None], object]) -> None:
        """Takes the alarm of `ends_at`, which is given on where nobody looks at it."""
        self.rang = True
        if is_waiting():
            alarm(signal.SIGALRM, None)

    @property
    def asked(self) -> bool:
        """Whether work should end, its trainings saved where they are."""
        return bool(self.signals) or self._late or self._is_over

    @property
    def urgent(self) -> bool:
        """Whether work should end at once: what comes after it needs the time."""
        over = self._over_since
        return self._twice or (over is not None and time.monotonic() > over + GRACE_SECONDS)

    @property
    def reason(self) -> str:
        """What has happened, to be followed by how far the work has come."""
        if self.signals or not self._until:
            return "interrupted"
        return f"stopped at {deadline.shown(self._until)}, its time limit,"

    @property
    def _late(self) -> bool:
        return self._until is not None and deadline.now() >= self._until

    @property
    def _is_over(self) -> bool:
        if self._over_since is None and (self.rang or self._share_is_over()):
            self._over_since = time.monotonic()
        return self._over_since is not None


@contextmanager
def stop_requests(until: datetime | None, late: Callable[[], bool] | None = None) -> Iterator[Stop]:
    """Collects requests within the block. A hang-up that is ignored, as by nohup, remains so."""
    stop, over = Stop(until, late), threading.Event()
    before = {kind: signal.getsignal(kind) for kind in SIGNALS}
    for kind, handler in before.items():
        if kind != signal.SIGHUP or handler != signal.SIG_IGN:
            signal.signal(kind, lambda number, _: stop.hear(number))
    if "DVC_STAGE" in os.environ:
        threading.Thread(target=_watch_parent, args=(os.getppid(), over), daemon=True).start()
    alarm = signal.getsignal(signal.SIGALRM)
    if callable(alarm):
        signal.signal(signal.SIGALRM, lambda *_: stop.ring(alarm))
    try:
        yield stop
    finally:
        over.set()
        for kind, handler in {**before, signal.SIGALRM: alarm}.items():
            signal.signal(kind, handler)
    if stop.rang:  # and all was done by then
        signal.raise_signal(signal.SIGALRM)


@contextmanager
def ends_at(until: datetime | None, title: str) -> Iterator[None]:
    """Raises OutOfTime at `until`, wherever the block is; within `stop_requests` when work has
    stopped. A block that begins later has no such end."""
    left = (until - deadline.now()) / timedelta(seconds=1) if until else 0.0
    if until is None or left <= 0:
        yield
        return
    rang: list[int] = []
    over = False

    def ring(number: int, _: object) -> None:
        if not over:
            rang.append(number)
            raise Stopped

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, left, AGAIN_SECONDS)
        yield
    except KeyboardInterrupt:  # Stopped or Ctrl-C
        if not rang:
            raise
        raise OutOfTime(
            f"{title}: stopped at {deadline.shown(until)}, its time limit; nothing is lost: the"
            " same command goes on"
        ) from None
    finally:
        over = True  # an alarm from here on would leave the timer on
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _watch_parent(parent: int, over: threading.Event) -> None:
    """A killed dvc leaves its stage running; the next dvc would be a second writer."""
    while not over.wait(PARENT_SECONDS):
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
            return
