"""A budget in epochs: the same trials whoever works on them, and more of them for a larger one."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from searches import search, toy_space, toy_study

from pipeline.study.budget import admitted
from pipeline.study.identity import Study

SEARCH = {"trials": 60, "epochs": 3, "parallelism": 4, "startup_trials": 5, "pruner": "none"}


def study(total_epochs: int | None) -> Study:
    """At most 6 trials of at most 10 epochs."""
    space = toy_space(trials=6, epochs=10)
    return replace(toy_study(space), total_epochs=total_epochs)


@pytest.mark.parametrize(
    ("total_epochs", "used", "count"),
    [
        (None, [], 6),
        (10, [], 1),
        (28, [], 2),
        (28, [None, None], 2),
        (28, [9, None], 2),  # 9 + 10 leave no room for another 10
        (28, [9, 9], 3),  # 18 do
        (28, [9, 9, 1], 3),
        (28, [0, 0, 0, 0, 0, 0], 6),
        (10**6, [], 6),
    ],
)
def test_a_trial_belongs_if_it_fits_after_all_before_it(
    total_epochs: int | None, used: list[int | None], count: int
) -> None:
    assert admitted(study(total_epochs), used) == count


def test_what_is_admitted_stays_so_whatever_ends_next() -> None:
    for total in range(10, 61):
        for used in ([4, None, None], [None, 2, 7], [10, None, 1, None]):
            before = admitted(study(total), used)
            for end in range(11):
                after = admitted(study(total), [end if u is None else u for u in used])
                assert after >= before


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_workers_and_timing_change_no_trial_of_a_budget_in_epochs(
    sampler: str, tmp_path: Path
) -> None:
    space = toy_space(**SEARCH, sampler=sampler, total_epochs=40)
    alone = search(space, tmp_path)
    spent = sum(len(trial.curve) for trial in alone)
    assert 40 - 3 < spent <= 40
    for workers, timing in ((2, 1), (4, 2), (4, 3)):
        made = search(space, tmp_path, workers, timing=timing, restarts=0.05)
        assert outcome(made) == outcome(alone)


def test_a_smaller_budget_has_a_prefix_of_the_outcome_of_a_larger_one(tmp_path: Path) -> None:
    outcomes = [
        outcome(search(toy_space(**SEARCH, total_epochs=total), tmp_path, 3, timing=total))
        for total in (20, 41, 60)
    ]
    for smaller, larger in pairwise(outcomes):
        assert len(smaller) < len(larger)
        assert larger[: len(smaller)] == smaller


def outcome(trials: list) -> list:
    return [(trial.number, trial.state, trial.parameters, trial.curve) for trial in trials]
