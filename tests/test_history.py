"""Finished trials are read once, and unfinished ones are never taken for finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from desk import STUDY, Desk

from pipeline.study import history
from pipeline.study.history import History
from pipeline.study.ledger import Ledger, Trial
from pipeline.study.prune import Curve


class Counting:
    """A ledger that remembers which trials were read."""

    def __init__(self, ledger: Ledger):
        self._ledger = ledger
        self.read: list[int] = []

    def trials(self, *arguments: Any) -> list[Trial]:
        trials = self._ledger.trials(*arguments)
        self.read += [trial.number for trial in trials]
        return trials


def finished_trials(desk: Desk, states: list[str]) -> None:
    for state in states:
        curve = [{"epoch": 1, "nelbo_nats": 9.0}, {"epoch": 2, "nelbo_nats": 8.0}]
        desk.ledger.finish(desk.must_claim(), state, curve, None)


@pytest.fixture
def files(tmp_path: Path) -> Desk:
    return Desk(f"sqlite:///{tmp_path}/ledger.db")


def test_each_trial_is_read_once(files: Desk) -> None:
    finished_trials(files, ["complete"] * 6)
    counting = Counting(files.ledger)
    read = History(counting, STUDY)  # type: ignore[arg-type]
    for last in (1, 1, 3, 2, 5):
        assert [trial.number for trial in read.finished(0, last)] == list(range(last + 1))
        assert len(read.curves(last)) == last + 1
    assert counting.read == [0, 1, 2, 3, 4, 5]


def test_a_range_before_the_first_trial_is_empty(files: Desk) -> None:
    read = History(files.ledger, STUDY)
    assert read.finished(0, -4) == []
    assert read.curves(-1) == []
    assert read.running(3, 2) == []


def test_curves_are_of_complete_and_pruned_trials(files: Desk) -> None:
    finished_trials(files, ["complete", "failed", "pruned"])
    assert History(files.ledger, STUDY).curves(2) == [
        Curve(0, (9.0, 8.0), True),
        Curve(2, (9.0, 8.0), False),
    ]


def test_a_trial_is_judged_by_the_latest_curves_alone(
    files: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "CURVES", 2)
    finished_trials(files, ["complete", "failed", "pruned", "complete", "complete"])
    kept = History(files.ledger, STUDY)
    assert [curve.number for curve in kept.curves(4)] == [3, 4]
    assert [curve.number for curve in kept.curves(3)] == [2, 3]
    assert [curve.number for curve in kept.curves(1)] == [0]


def test_a_trial_that_runs_or_was_never_claimed_is_not_finished(files: Desk) -> None:
    finished_trials(files, ["complete"])
    read = History(files.ledger, STUDY)
    with pytest.raises(RuntimeError, match=f"trial 1 of {STUDY} is not finished yet"):
        read.finished(0, 1)
    lease = files.must_claim()
    with pytest.raises(RuntimeError, match="trial 1 of"):
        read.curves(1)
    assert [trial.state for trial in read.running(0, 1)] == ["complete", "running"]
    files.complete(lease)
    assert len(read.finished(0, 1)) == 2
