"""A lease that is kept alive in the background, however long an epoch takes."""

from __future__ import annotations

import threading

from pipeline.study.storage.claim import Lease
from pipeline.study.storage.ledger import LEASE_SECONDS, Ledger
from pipeline.study.storage.outages import StorageAway

AGAIN_SECONDS = 2.0  # after a renewal that failed


class Renewal:
    """Renews a lease while its block runs."""

    def __init__(self, ledger: Ledger, lease: Lease):
        self._ledger, self._lease = ledger.impatient(), lease
        self._done = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> Renewal:
        self._thread.start()
        return self

    def __exit__(self, error: object, *_: object) -> None:
        self._done.set()
        if error is None:  # else it may be that nobody answers, and one more renewal is no harm
            self._thread.join()

    @property
    def ended(self) -> bool:
        """Whether `check` raises."""
        return self._error is not None

    def check(self) -> None:
        """Raises what ended the renewals: LeaseLost, or an error that does not pass."""
        if self._error:
            raise self._error

    def _renew(self) -> None:
        pause = LEASE_SECONDS / 3
        while not self._done.wait(pause):
            pause = LEASE_SECONDS / 3
            try:
                self._ledger.renew(self._lease)
            except StorageAway:  # the epoch is not lost: who reports it waits for the storage
                pause = min(pause, AGAIN_SECONDS)
            except Exception as error:
                self._error = error
                return
