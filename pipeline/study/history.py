"""The finished trials of a study, read from the ledger once each."""

from __future__ import annotations

from bisect import bisect_right

from pipeline.study.ledger import Ledger, Trial
from pipeline.study.prune import Curve

CURVES = 400  # enough to judge a trial by; more would make every epoch of trial 5 000 slower


class History:
    """Finished trials never change, so they are kept: a trial's reading costs the same at 5 000."""

    def __init__(self, ledger: Ledger, study: str):
        self._ledger = ledger
        self._study = study
        self._finished: list[Trial] = []  # trial number = index
        self._curves: list[Curve] = []

    def finished(self, first: int, last: int) -> list[Trial]:
        """The trials first..last, all of which must be finished."""
        if first > last:
            return []
        self._read_to(last)
        return self._finished[first : last + 1]

    def running(self, first: int, last: int) -> list[Trial]:
        """The trials first..last as they are now."""
        return self._ledger.trials(self._study, first, last) if first <= last else []

    def curves(self, last: int) -> list[Curve]:
        """The curves of the latest `CURVES` complete and pruned trials ≤ last, all finished."""
        if last < 0:
            return []
        self._read_to(last)
        end = bisect_right(self._curves, last, key=lambda curve: curve.number)
        return self._curves[max(0, end - CURVES) : end]

    def _read_to(self, last: int) -> None:
        start = len(self._finished)
        if start > last:
            return
        for trial in self._ledger.trials(self._study, start, last):
            if trial.state == "running":
                break
            self._finished.append(trial)
            if trial.state != "failed":
                values = tuple(record["nelbo_nats"] for record in trial.curve)
                self._curves.append(Curve(trial.number, values, trial.state == "complete"))
        if len(self._finished) <= last:
            raise RuntimeError(f"trial {len(self._finished)} of {self._study} is not finished yet")
