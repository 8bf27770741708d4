"""The gate: what is not better than the train-mean image diverged, collapsed or is undertrained."""

from __future__ import annotations

from pathlib import Path

import pytest
from crews import make_sweep, no_one_left, sweep

from pipeline.files import read_json
from pipeline.study.storage.ledger import Trial
from pipeline.work.broken_models import broken, falls

LIMIT = 40.0
FEW, MANY = 100, 5000  # steps


def said(curve: list[float], kl: float = 3.0, steps: int = MANY) -> str | None:
    reason = broken(curve, {"nelbo_nats": min(curve), "kl_nats": kl}, LIMIT, steps)
    return reason and reason.split(":")[0]


def test_a_curve_tells_the_broken_from_those_that_need_more_epochs() -> None:
    falling = [60.0, 56.0, 53.0, 50.0, 48.0, 46.5]
    assert said(falling) is None
    assert said(falling, kl=0.0) is None
    assert said([60.0]) is None  # one epoch that took many steps says nothing of its direction
    assert said([1e6]) == said([9e6, 5e6, 1e6], steps=FEW) == "diverged"  # none begins there
    assert said([40.0, 41.0, 40.5, 44.0]) == "diverged"
    assert said([40.0, 41.0, 40.5, 44.0], steps=FEW) == "diverged"
    flat = [40.3, 40.1, 40.2, 40.1, 40.2, 40.15]
    assert said(flat, kl=0.01) == "collapsed"
    assert said(flat, kl=0.01, steps=FEW) is None
    assert said([60.0, 47.0, 44.0, 48.0, 46.0, 48.0]) == "stuck"


@pytest.mark.parametrize(
    ("curve", "falling"),
    [([1.0], False), ([2.0, 1.0], True), ([1.0, 1.0], False), ([9.0, 1.0, 2.0, 3.0], False),
     ([9.0, 8.0, 7.0, 6.5, 6.0, 6.2], True), ([9.0, 8.0, 7.0, 6.5, 6.0, 6.8], False)],
)  # fmt: skip
def test_the_end_of_a_curve(curve: list[float], falling: bool) -> None:
    assert falls(curve) is falling


def test_trials_that_were_trained_too_little_are_complete_ranked_and_said_to_be(
    tmp_path: Path,
) -> None:
    """Rates at which nothing is learned in two epochs: worse than predicting the mean image."""
    raw = sweep(
        parameters={"lr": {"low": 1e-5, "high": 1e-4}, "patience": None},
        search={"epochs": 2, "trials": 3, "rungs": [2]},
        retrain={"top": 1, "seeds": 1, "epochs": 2},
    )
    made = make_sweep(tmp_path, raw)
    for stage, setting in (("search", "search.epochs"), ("retrain", "retrain.epochs")):
        command = made.start(stage, 1)
        with no_one_left(command):
            assert command.wait(120) == 0, made.errors
        last = made.errors.splitlines()[-1]
        assert "is trained too little: NELBO" in last
        assert last.endswith(f"raise {setting} or lr")

    def value(trial: Trial) -> float:
        assert trial.result
        return trial.result["nelbo_nats"]

    trials = made.trials()
    assert {trial.state for trial in trials} == {"complete"}
    ranked = [entry["number"] for entry in read_json(made.paths.search / "best.json")["ranking"]]
    assert ranked == [trial.number for trial in sorted(trials, key=value)]
