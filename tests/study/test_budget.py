"""Which budget a search that is not at its end can close with, and what it then is."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from searches import STUDY, Worker, complete, mixed, outcome, search, toy_space, toy_study

from pipeline.settings.space import Space
from pipeline.study.budget import (
    finished_trials,
    most_runs,
    with_budget,
)
from pipeline.study.search.plan import Planner, belonging
from pipeline.study.storage.ledger import Ledger
from pipeline.study.storage.rows import Part
from pipeline.study.watch import Watch

SMALL: dict[str, Any] = {"epochs": 8, "trials": 12, "startup_trials": 4, "parallelism": 4,
                         "rungs": [1, 2, 4, 8], "reduction_factor": 2}  # fmt: skip


def moments(space: Space, folder: Path, workers: int, timing: int) -> list[list[Part]]:
    """The parts of a search at some moments of its course, the last of them its end."""
    ledger = Ledger(f"sqlite:///{folder}/course.db")
    ledger.open_study(STUDY, "toy", "search", {})
    draw, seen = random.Random(timing), []
    crew = [Worker(space, ledger, mixed) for _ in range(workers)]
    watch = Watch(ledger, toy_study(space), space)
    while not watch.planner.finished:
        draw.choices(crew, range(1, workers + 1))[0].step()
        watch.refresh()
        if draw.random() < 0.1:
            seen.append(ledger.parts(STUDY))
    seen.append(ledger.parts(STUDY))
    ledger.close()
    return seen


class TestTrials:
    @pytest.mark.parametrize(
        "more",
        [
            {},
            {"total_epochs": 40},
            {"pruner": "median", "rungs": None, "min_trials": 2},
            {"sampler": "random", "rungs": None, "pruner": "none"},
            {"stop": {"patience": 5}},
        ],
        ids=str,
    )
    def test_what_it_closes_with_is_the_search_of_so_many(
        self, tmp_path: Path, more: dict[str, Any]
    ) -> None:
        space = toy_space(**{**SMALL, **more})
        found = set()
        for parts in moments(space, tmp_path, 4, timing=1):
            if trials := finished_trials(space, parts):
                closed = with_budget(space, {"search.trials": trials})
                if trials not in found:
                    (tmp_path / f"{trials}").mkdir()
                    asked = search(closed, tmp_path / f"{trials}", ends=mixed)
                assert outcome(belonging(closed, parts)) == outcome(asked)
                found.add(trials)
        assert 12 in found
        assert len(found) > 1

    def test_it_is_the_most_of_which_all_has_ended(self, tmp_path: Path) -> None:
        space = toy_space(**SMALL)
        for parts in moments(space, tmp_path, 3, timing=2):
            trials = finished_trials(space, parts)
            for more in range(trials + 1, 13):
                planner = Planner(with_budget(space, {"search.trials": more}))
                planner.update(parts)
                assert not planner.finished
        assert trials == 12

    def test_nothing_is_nothing(self, tmp_path: Path) -> None:
        assert finished_trials(toy_space(**SMALL), []) == 0

    def test_trials_that_all_failed_are_nothing_to_go_on_with(self, tmp_path: Path) -> None:
        space = toy_space(**{**SMALL, "trials": 2})
        parts = search(space, tmp_path, ends=lambda number, chosen: ("failed", None))
        assert finished_trials(space, parts) == 0
        fallback = toy_space(**{**SMALL, "trials": 2}, fallback={"lr": 0.1})
        assert finished_trials(fallback, parts) == 2

    def test_a_search_at_its_end_closes_with_what_was_asked_for(self, tmp_path: Path) -> None:
        space = toy_space(**SMALL)
        assert finished_trials(space, search(space, tmp_path, ends=complete)) == 12


class TestRuns:
    @pytest.mark.parametrize(
        ("seeds", "ended", "expected"),
        [
            (3, [3, 3], (2, 3)),
            (3, [3, 2], (2, 2)),
            (3, [3, 1], (1, 3)),
            (3, [2, 3], (2, 2)),
            (3, [1, 3], None),
            (3, [0, 0], None),
            (1, [1, 0], (1, 1)),
        ],
    )
    def test_candidates_on_two_seeds_at_least(
        self, seeds: int, ended: list[int], expected: tuple[int, int] | None
    ) -> None:
        space = with_budget(toy_space(), {"retrain.seeds": seeds})

        def is_over(reduced: Space) -> bool:
            return min(ended[: reduced.retrain.top]) >= reduced.retrain.seeds

        budget = most_runs(space, len(ended), is_over)
        assert (budget and tuple(budget.values())) == expected
