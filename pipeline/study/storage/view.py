"""A reader's view of some studies that reads again only the trials that moved."""

from __future__ import annotations

from pipeline.study.storage.ledger import Ledger
from pipeline.study.storage.rows import Mark, Trial


class View:
    """The trials of some studies as they were at the last `refresh`."""

    def __init__(self, ledger: Ledger):
        self._ledger = ledger
        self._marks: dict[str, dict[int, Mark]] = {}
        self._rows: dict[str, dict[int, Trial]] = {}

    def refresh(self, study: str) -> set[int]:
        """Reads the trials that have moved since the last call, at first all; their numbers."""
        known, now = self._marks.get(study, {}), self._ledger.marks(study)
        moved = {number for number, mark in now.items() if known.get(number) != mark}
        rows = self._rows.setdefault(study, {})
        if moved:
            found = self._ledger.trials(study, moved if known else None)
            rows.update((trial.number, trial) for trial in found)
        self._marks[study] = now  # older than the rows, so what moved in between is read again
        return moved

    def trials(self, study: str) -> list[Trial]:
        """In order."""
        return [self._rows[study][number] for number in self._marks[study]]

    def mark(self, trial: Trial) -> Mark:
        """Which version of the trial this is."""
        return self._marks[trial.study][trial.number]
