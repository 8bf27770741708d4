"""How often a worker without work looks for some: less and less, and not all at once."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from pipeline.study.storage.ledger import LEASE_SECONDS

SHORTEST, LONGEST = 0.1, 4.0  # seconds between two looks
LATE = 0.1  # by this part of the wait a look may be late

_jitter = random.Random()  # its own: the trainings' draws are not to move


class Idling:
    """The pauses of one wait for work: a tenth of its length so far, but SHORTEST at least."""

    def __init__(self) -> None:
        self._began = self._seen = time.monotonic()

    def wait(self, ends: Callable[[], bool], longest: float = LONGEST) -> None:
        """Until the next look, or until it `ends`, which a signal may have done."""
        now = time.monotonic()
        pause = min(max(LATE * (now - self._began), SHORTEST), longest) * _jitter.uniform(0.5, 1.0)
        while not ends() and (left := now + pause - time.monotonic()) > 0:
            time.sleep(min(left, SHORTEST))

    def is_unseen(self) -> bool:
        """Whether it is time to be seen once more, as a lease would be renewed; then it is."""
        now = time.monotonic()
        if now - self._seen < LEASE_SECONDS / 3:
            return False
        self._seen = now
        return True
