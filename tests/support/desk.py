"""A ledger as its workers see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ledgers import open_ledger
from studies import next_lease

from pipeline.study.storage.ledger import Lease, Ledger
from pipeline.study.storage.rows import Trial

STUDY = "tiny-0123456789ab"
PARAMETERS = {"lr": 0.1 + 0.2, "hidden": [8, 4], "patience": None, "init": "glorot", "on": True}


class Desk:
    """A ledger with one study, and short names for what workers do with it."""

    def __init__(self, url: str):
        self.url = url
        self.ledger = open_ledger(url)
        self.ledger.open_study(STUDY, "tiny", "search", {"a": 1})

    def claim(self, owner: str = "a", *, budget: int = 100) -> Lease | None:
        who: dict[str, Any] = {"owner": owner, "meta": {"host": owner}}
        return next_lease(self.ledger, STUDY, PARAMETERS, budget=budget, **who)

    def must_claim(self, owner: str = "a") -> Lease:
        lease = self.claim(owner)
        assert lease
        return lease

    def complete(self, lease: Lease) -> None:
        self.ledger.finish(lease, "complete", curve(2), {"nelbo_nats": 1.0})

    def row(self, number: int = 0) -> Trial:
        (trial,) = self.ledger.trials(STUDY, [number])
        return trial


def curve(epochs: int) -> list[dict[str, Any]]:
    return [{"epoch": e, "nelbo_nats": 100.0 - e} for e in range(1, epochs + 1)]


WRITES = ["report", "renew", "complete", "fail"]


def write(ledger: Ledger, lease: Lease, name: str) -> None:
    writes: dict[str, Callable[[], None]] = {
        "report": lambda: ledger.report(lease, curve(9)),
        "renew": lambda: ledger.renew(lease),
        "complete": lambda: ledger.finish(lease, "complete", curve(9), {"nelbo_nats": 0.0}),
        "fail": lambda: ledger.finish(lease, "failed", [], None, "zombie"),
    }
    writes[name]()
