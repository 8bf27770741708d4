"""A lease that is kept alive in the background, however long an epoch takes."""

from __future__ import annotations

import threading

from pipeline.study.claim import Lease
from pipeline.study.ledger import LEASE_SECONDS, Ledger


class Renewal:
    """Renews a lease while its block runs."""

    def __init__(self, ledger: Ledger, lease: Lease):
        self._ledger, self._lease = ledger, lease
        self._done = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> Renewal:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def check(self) -> None:
        """Raises what ended the renewals: LeaseLost, or an error of the storage."""
        if self._error:
            raise self._error

    def _renew(self) -> None:
        while not self._done.wait(LEASE_SECONDS / 3):
            try:
                self._ledger.renew(self._lease)
            except Exception as error:
                self._error = error
                return
