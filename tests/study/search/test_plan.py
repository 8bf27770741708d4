"""A search is one and the same whoever works on it, however fast, and however often killed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from searches import (
    STUDY,
    Parameters,
    Worker,
    complete,
    cost,
    mixed,
    outcome,
    plan,
    planner_of,
    proposer,
    search,
    toy_space,
    toy_study,
)

from pipeline.results.states import State
from pipeline.study.search.plan import belonging
from pipeline.study.storage.claim import Claimant, Reopened
from pipeline.study.storage.ledger import LeaseLost, Ledger
from pipeline.study.storage.reopen import Reopening, reopen, to_reopen
from pipeline.study.storage.rows import Part, trials_of
from pipeline.study.watch import Watch

SMALL: dict[str, Any] = {"epochs": 8, "trials": 14, "startup_trials": 4, "parallelism": 4,
                         "rungs": [1, 2, 4, 8], "reduction_factor": 2}  # fmt: skip
LR: dict[str, Any] = {"lr": {"low": 1e-3, "high": 1.0, "log": True}, "beta": {"low": 0, "high": 2}}
WARM: dict[str, Any] = {
    "lr": {"low": 1e-3, "high": 1.0, "log": True},
    "kl_warmup": {"choices": [0.0, 0.3]},
}


class TestAnyNumberOfWorkers:
    @pytest.mark.parametrize(
        "more",
        [
            {},
            {"total_epochs": 40},
            {"pruner": "median", "rungs": None, "min_trials": 2},
            {"sampler": "random", "rungs": None, "pruner": "none"},
            {"rungs": [1, 3, 8], "reduction_factor": 3, "random_share": 0.5},
            {"stop": {"patience": 5}},
        ],
        ids=str,
    )
    def test_the_same_parts_at_the_same_places(self, tmp_path: Path, more: dict[str, Any]) -> None:
        space = toy_space(**{**SMALL, **more})
        alone = outcome(search(space, tmp_path))
        assert len(alone) > 5
        for workers in (2, 4, 8):
            team = search(space, tmp_path, workers, timing=workers, restarts=0.03)
            assert outcome(team) == alone

    def test_with_kl_warm_ups_of_unequal_length(self, tmp_path: Path) -> None:
        space = toy_space(WARM, **SMALL, total_epochs=50)
        alone = search(space, tmp_path)
        first = {p.trial: (p.parameters or {})["kl_warmup"] for p in alone if not p.since}
        pauses = {p.trial: p.until for p in alone if not p.since}
        assert {(first[t], pauses[t]) for t in first} == {(0.0, 1), (0.3, 4)}  # 0.3 · 8: 3 epochs
        team = search(space, tmp_path, 4, timing=3, restarts=0.03)
        assert outcome(team) == outcome(alone)

    @pytest.mark.slow
    def test_on_postgresql(self, tmp_path: Path, postgres_storage: str) -> None:
        space = toy_space(**SMALL)
        alone = outcome(search(space, tmp_path))
        team = search(space, tmp_path, 8, timing=1, restarts=0.03, url=postgres_storage)
        assert outcome(team) == alone


class TestTheClock:
    def test_a_part_sees_what_had_ended_when_it_began(self, tmp_path: Path) -> None:
        parts = search(toy_space(**SMALL), tmp_path, ends=complete)
        ends = {p.number: p.ends for p in parts}
        for part in parts:
            seen = {p.follows for p in parts[: part.number + 1]} - {None}
            earlier = {p.number for p in parts[: part.number] if ends[p.number] < part.starts}
            assert earlier <= seen
            assert all(ends[number] <= part.starts for number in seen if number is not None)

    def test_four_virtual_workers_are_never_idle_and_never_five(self, tmp_path: Path) -> None:
        parts = search(toy_space(**SMALL), tmp_path, 2)
        for part in parts[4:]:
            assert sum(p.starts <= part.starts < p.ends for p in parts) == 4

    def test_what_is_at_work_ends_no_earlier_than_it_was_said(self, tmp_path: Path) -> None:
        """Failed, stopped early, pruned or paused: the bound was never above the end."""
        for more in ({}, {"pruner": "median", "rungs": None, "min_trials": 1}):
            for part in search(toy_space(**{**SMALL, **more}), tmp_path, timing=len(more)):
                for epochs in range(part.since, part.epochs):
                    bound = part.starts + (epochs - part.since + 1) * part.cost
                    assert bound <= part.ends


class TestRungs:
    def test_a_trial_goes_on_where_it_paused(self, tmp_path: Path) -> None:
        parts = search(toy_space(**SMALL), tmp_path, 4, timing=2)
        before: dict[int, Part] = {}
        for part in parts:
            if part.since:
                assert part.curve[: part.since] == before[part.trial].curve
                assert part.parameters == before[part.trial].parameters
                assert part.since == before[part.trial].until
                assert before[part.trial].state == State.PAUSED
            before[part.trial] = part
        assert {p.until for p in parts} == {1, 2, 4, 8}

    def test_failed_ones_never_go_on(self, tmp_path: Path) -> None:
        parts = search(toy_space(**SMALL), tmp_path)
        failed = {p.trial for p in parts if p.state == State.FAILED}
        assert failed
        assert all(not p.since for p in parts if p.trial in failed)

    def test_the_best_are_trained_longest(self, tmp_path: Path) -> None:
        made = trials_of(search(toy_space(**{**SMALL, "trials": 24}), tmp_path, ends=complete))
        at_one = sorted(made, key=lambda t: t.curve[0]["nelbo_nats"])
        deep = [len(t.curve) for t in at_one]
        assert sum(deep[:8]) > 2 * sum(deep[-8:])


class TestBudgets:
    @pytest.mark.parametrize("more", [{}, {"pruner": "none", "rungs": None}], ids=str)
    def test_a_smaller_one_has_a_prefix_of_the_outcome(
        self, tmp_path: Path, more: dict[str, Any]
    ) -> None:
        for key, budgets in {"trials": (5, 9, 14), "total_epochs": (16, 27, 38)}.items():
            outcomes = [
                outcome(search(toy_space(**{**SMALL, **more, key: most}), tmp_path, 3, timing=most))
                for most in budgets
            ]
            for smaller, larger in pairwise(outcomes):
                assert len(smaller) < len(larger)
                assert larger[: len(smaller)] == smaller

    def test_a_larger_one_extends_what_is_there(self, tmp_path: Path) -> None:
        whole = search(toy_space(**SMALL), tmp_path)
        url = f"sqlite:///{tmp_path}/more.db"
        for most in (4, 9, 14):
            parts = search(toy_space(**{**SMALL, "trials": most}), tmp_path, 2, url=url)
        assert outcome(parts) == outcome(whole)

    def test_a_total_of_epochs_is_kept_and_used(self, tmp_path: Path) -> None:
        for pruner in ("rungs", "none"):
            more = {"trials": 99, "total_epochs": 60, "pruner": pruner, "rungs": None}
            space = toy_space(**{**SMALL, **more})
            parts = search(space, tmp_path, ends=complete, timing=len(pruner))
            spent = sum(p.epochs - p.since for p in parts)
            assert 60 - 8 < spent <= 60

    def test_parts_beyond_a_lowered_budget_do_not_belong(self, tmp_path: Path) -> None:
        parts = search(toy_space(**SMALL), tmp_path)
        for key, most in (("trials", 6), ("total_epochs", 25)):
            space = toy_space(**{**SMALL, key: most})
            fewer = search(space, tmp_path, timing=7)
            assert belonging(space, parts) == parts[: len(fewer)]
            assert outcome(belonging(space, parts)) == outcome(fewer)

    def test_a_search_stops_when_nothing_is_gained(self, tmp_path: Path) -> None:
        def flat(_: int, chosen: Parameters) -> Any:
            return "complete", {"nelbo_nats": 100.0}

        space = toy_space(**{**SMALL, "trials": 60, "stop": {"gain": 5.0, "patience": 6}})
        parts = search(space, tmp_path, ends=flat)
        planner = planner_of(space, parts)
        assert planner.next() is None
        assert planner.stopped
        gained = planner._gained[1]
        assert len(planner.trials) == gained + 6


class TestManyAtOnce:
    """What two workers do that have come to the same plan."""

    @pytest.fixture
    def ledger(self, storage: str) -> Iterator[Ledger]:
        with closing(Ledger(storage)) as ledger:
            ledger.open_study(STUDY, "toy", "search", {})
            yield ledger

    def watch(self, ledger: Ledger) -> Watch:
        watch = Watch(ledger, toy_study(toy_space(**SMALL)), toy_space(**SMALL))
        watch.refresh()
        return watch

    def test_one_begins_it(self, ledger: Ledger) -> None:
        first, second = self.watch(ledger), self.watch(ledger)
        plans = [plan(watch, proposer(toy_space(**SMALL))) for watch in (first, second)]
        assert plans[0]
        assert plans[0] == plans[1]
        lease = ledger.begin(STUDY, plans[0], Claimant("a"))
        assert lease
        assert ledger.begin(STUDY, plans[0], Claimant("b")) is None
        assert (lease.trial, lease.since, lease.until) == (0, 0, 1)
        second.refresh()
        again = plan(second, proposer(toy_space(**SMALL)))
        assert again
        assert again.number == 1

    def test_a_plan_of_before_a_re_opening_is_void(self, ledger: Ledger) -> None:
        watch = self.watch(ledger)
        made = plan(watch, proposer(toy_space(**SMALL)))
        assert made
        reopen(ledger, Reopening(STUDY, [], []))
        with pytest.raises(Reopened):
            ledger.begin(STUDY, made, Claimant("a"))
        assert ledger.parts(STUDY) == []
        watch.refresh()
        fresh = plan(watch, proposer(toy_space(**SMALL)))
        assert fresh
        assert ledger.begin(STUDY, fresh, Claimant("a"))


class TestRetry:
    def test_what_saw_a_failure_is_planned_anew(self, tmp_path: Path) -> None:
        """As if it had never failed: the outcome is that of a search in which it did not."""
        space, url = toy_space(**SMALL), f"sqlite:///{tmp_path}/again.db"
        search(space, tmp_path, 2, url=url)
        ledger = Ledger(url)
        parts = ledger.parts(STUDY)
        failed, seeing = to_reopen(parts)
        assert failed == [next(p.number for p in parts if p.state == State.FAILED)]
        assert seeing == list(range(seeing[0], len(parts)))
        assert parts[seeing[0]].follows == failed[0]
        reopen(ledger, Reopening(STUDY, failed, seeing, len(parts)))
        assert len(ledger.parts(STUDY)) == seeing[0]
        ledger.close()
        made = search(space, tmp_path, 3, timing=4, url=url, ends=complete)
        assert outcome(made) != outcome(parts)
        once = dict.fromkeys([parts[failed[0]].trial])

        def as_it_was(number: int, chosen: Parameters) -> Any:
            early = any(p.trial == number for p in parts[: seeing[0]])
            return (
                mixed(number, chosen) if early and number not in once else complete(number, chosen)
            )

        assert outcome(made) == outcome(search(space, tmp_path, timing=9, ends=as_it_was))

    @pytest.mark.parametrize("sampler", ["tpe", "cmaes", "gp"])
    def test_a_worker_that_was_there_before_plans_as_a_new_one(
        self, tmp_path: Path, sampler: str
    ) -> None:
        """It was told to pause, so that it held nothing when the failed trial was opened."""
        space = toy_space(LR, sampler=sampler, trials=12, startup_trials=2, pruner="none")
        ledger, broken = Ledger(f"sqlite:///{tmp_path}/again.db"), {5}
        ledger.open_study(STUDY, "toy", "search", {})

        def ends(number: int, chosen: Parameters) -> Any:
            return ("failed", None) if number in broken else complete(number, chosen)

        worker = Worker(space, ledger, ends)
        for _ in range(2):
            while not worker.watch.planner.finished:
                worker.step()
                worker.watch.refresh()
            failed, seeing = to_reopen(ledger.parts(STUDY))
            if broken:
                assert (failed, bool(seeing)) == ([5], True)
                reopen(ledger, Reopening(STUDY, failed, seeing))
                broken.clear()
                worker.watch.refresh()
        assert outcome(ledger.parts(STUDY)) == outcome(search(space, tmp_path, ends=complete))
        ledger.close()

    def test_who_held_a_part_before_can_write_nothing(self, tmp_path: Path) -> None:
        space = toy_space(**{**SMALL, "parallelism": 1})
        url = f"sqlite:///{tmp_path}/zombie.db"
        ledger = Ledger(url)
        ledger.open_study(STUDY, "toy", "search", {})
        watch = Watch(ledger, toy_study(space), space)
        leases = []
        for state in (State.FAILED, State.PAUSED):
            watch.refresh()
            made = plan(watch, proposer(space))
            assert made
            lease = ledger.begin(STUDY, made, Claimant("a"))
            assert lease
            leases.append(lease)
            result = None if state == State.FAILED else {"nelbo_nats": 1.0}
            curve = [] if state == State.FAILED else [{"epoch": 1, "nelbo_nats": 1.0}]
            ledger.finish(lease, state, curve, result, "broken" if result is None else None)
        reopen(ledger, Reopening(STUDY, *to_reopen(ledger.parts(STUDY))))
        again = ledger.claim(STUDY, Claimant("b"), budget=1)
        assert again
        assert again.token > leases[0].token
        ledger.finish(again, State.PAUSED, [{"epoch": 1, "nelbo_nats": 2.0}], {"nelbo_nats": 2.0})
        watch.refresh()
        made = plan(watch, proposer(space))
        assert made
        anew = ledger.begin(STUDY, made, Claimant("b"))
        assert anew
        assert anew.token > leases[1].token
        for zombie in leases:
            with pytest.raises(LeaseLost):
                ledger.report(zombie, [{"epoch": 1, "nelbo_nats": 0.0}])
        ledger.close()


def test_costs_of_the_tests_are_often_equal() -> None:
    assert len({cost({"batch_size": size}) for size in (32, 64, 96, 128)}) == 4
    assert cost({}) == cost({"batch_size": 32})
