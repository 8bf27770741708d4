"""Pruning rules: tiny examples, each with its rule in a comment, and Optuna where it agrees."""

from __future__ import annotations

import random
from typing import Any

import optuna
import pytest

from pipeline.settings.search_section import PRUNERS, Search
from pipeline.study.search.prune import Curve, should_prune


def rules(pruner: str, **changes: Any) -> Search:
    return Search(**{"pruner": pruner, "epochs": 20, "min_trials": 1, **changes})


def complete(*curves: list[float]) -> list[Curve]:
    return [Curve(n, tuple(values), True) for n, values in enumerate(curves)]


def prunes(search: Search, own: list[float], others: list[Curve], *, first_epoch: int = 1) -> bool:
    return should_prune(search, own, others, first_epoch)


class TestCurves:
    def test_epochs_count_from_one(self) -> None:
        assert Curve(0, (5.0, 4.0), True).at(2) == 4.0

    def test_a_trial_that_stopped_early_keeps_its_last_value(self) -> None:
        assert Curve(0, (5.0, 4.0), True).at(7) == 4.0

    def test_a_pruned_one_has_none_after_its_end(self) -> None:
        assert Curve(0, (5.0, 4.0), False).at(3) is None

    def test_nor_has_an_empty_one(self) -> None:
        assert Curve(0, (), True).at(1) is None


class TestMedian:
    OTHERS = complete([9.0, 1.0], [9.0, 2.0], [9.0, 3.0])

    @pytest.mark.parametrize(
        ("own", "pruned"),
        [
            ([9.0, 2.5], True),  # worse than the median 2 of 1, 2, 3
            ([9.0, 2.0], False),  # a tie goes on
            ([9.0, 1.5], False),
            ([1.5, 8.0], False),  # the best value so far counts, not the last
        ],
    )
    def test_worse_than_the_median_at_this_epoch(self, own: list[float], pruned: bool) -> None:
        assert prunes(rules("median"), own, self.OTHERS) is pruned

    def test_an_even_number_has_its_median_in_between(self) -> None:
        others = complete([1.0], [3.0])  # median 2
        assert prunes(rules("median"), [2.1], others)
        assert not prunes(rules("median"), [1.9], others)

    def test_others_count_with_their_value_at_this_epoch(self) -> None:
        others = complete([9.0, 1.0], [9.0, 1.0])
        assert not prunes(rules("median"), [5.0], others)  # against 9 and 9
        assert prunes(rules("median"), [5.0, 5.0], others)  # against 1 and 1

    def test_an_early_stopped_trial_counts_with_its_last_value(self) -> None:
        assert prunes(rules("median"), [9.0, 9.0, 5.0], complete([4.0]))
        assert not prunes(rules("median"), [9.0, 9.0, 3.0], complete([4.0]))

    def test_pruned_trials_do_not_count(self) -> None:
        others = [Curve(0, (1.0, 1.0), False), Curve(1, (9.0, 9.0), True)]
        assert not prunes(rules("median"), [5.0, 5.0], others)

    def test_needs_min_trials_with_a_value(self) -> None:
        search = rules("median", min_trials=3)
        assert not prunes(search, [5.0], complete([1.0], [1.0]))
        assert prunes(search, [5.0], complete([1.0], [1.0], [1.0]))
        assert not prunes(search, [5.0], [*complete([1.0], [1.0]), Curve(2, (1.0,), False)])


class TestPercentile:
    OTHERS = complete([1.0], [2.0], [3.0], [4.0], [5.0])

    @pytest.mark.parametrize(
        ("share", "limit"),
        [(25.0, 2.0), (50.0, 3.0), (10.0, 1.4), (99.0, 4.96)],  # linear between ranks 1 … 5
    )
    def test_the_best_share_goes_on(self, share: float, limit: float) -> None:
        search = rules("percentile", percentile=share)
        assert prunes(search, [limit + 1e-6], self.OTHERS)
        assert not prunes(search, [limit - 1e-6], self.OTHERS)

    def test_one_other_trial_is_every_percentile(self) -> None:
        search = rules("percentile", percentile=10.0)
        assert prunes(search, [3.1], complete([3.0]))
        assert not prunes(search, [3.0], complete([3.0]))


@pytest.mark.parametrize("pruner", PRUNERS)
class TestAlways:
    OTHERS = complete(*[[1.0] * 20] * 8)

    def test_not_before_the_end_of_the_kl_warm_up(self, pruner: str) -> None:
        search = rules(pruner)
        pruned = [e for e in range(1, 20) if prunes(search, [9.0] * e, self.OTHERS, first_epoch=7)]
        assert pruned[0] == 7

    def test_not_before_min_epochs(self, pruner: str) -> None:
        search = rules(pruner, min_epochs=3)
        pruned = [e for e in range(1, 20) if prunes(search, [9.0] * e, self.OTHERS)]
        assert pruned[0] == 3

    def test_not_after_the_last_epoch(self, pruner: str) -> None:
        search = rules(pruner, epochs=9)
        assert not prunes(search, [9.0] * 9, self.OTHERS)

    def test_not_before_the_first_epoch(self, pruner: str) -> None:
        assert not prunes(rules(pruner), [], self.OTHERS, first_epoch=0)

    def test_not_without_others(self, pruner: str) -> None:
        assert not any(prunes(rules(pruner), [9.0] * e, []) for e in range(1, 20))

    def test_not_when_all_are_equal(self, pruner: str) -> None:
        assert not any(prunes(rules(pruner), [1.0] * e, self.OTHERS) for e in range(1, 20))

    def test_more_min_epochs_than_epochs_never_prunes(self, pruner: str) -> None:
        search = rules(pruner, min_epochs=30)
        assert not any(prunes(search, [9.0] * e, self.OTHERS) for e in range(1, 21))


def test_none_never_prunes() -> None:
    others = TestAlways.OTHERS
    for pruner in ("none", "rungs"):
        assert not any(prunes(rules(pruner), [9.0] * e, others) for e in range(1, 21))


def optuna_decisions(
    pruner: optuna.pruners.BasePruner, own: list[float], others: list[Curve]
) -> list[bool]:
    study = optuna.create_study(pruner=pruner)
    for curve in others:
        study.add_trial(
            optuna.trial.create_trial(
                value=curve.values[-1], intermediate_values=dict(enumerate(curve.values, 1))
            )
        )
    trial = study.ask()
    decisions = []
    for epoch, value in enumerate(own, 1):
        trial.report(value, epoch)
        decisions.append(trial.should_prune())
    return decisions


@pytest.mark.parametrize("share", [None, 10.0, 25.0, 33.3, 90.0])
def test_optuna_decides_alike_on_complete_curves(share: float | None) -> None:
    """Without early stopping and pruned trials the median and percentile rules are Optuna's."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    draw = random.Random(str(share))
    seen = set()
    for _ in range(40):
        count, minimum, first = draw.randint(1, 9), draw.randint(1, 4), draw.randint(1, 3)
        curves = [[round(draw.uniform(1, 3), 1) for _ in range(6)] for _ in range(count + 1)]
        options: dict[str, Any] = {"n_startup_trials": minimum, "n_warmup_steps": first}
        reference = (
            optuna.pruners.MedianPruner(**options)
            if share is None
            else optuna.pruners.PercentilePruner(share, **options)
        )
        search = rules(
            "median" if share is None else "percentile",
            percentile=share or 25.0,
            min_trials=minimum,
            epochs=99,
        )
        own, others = curves[0], complete(*curves[1:])
        ours = [prunes(search, own[:e], others, first_epoch=first) for e in range(1, 7)]
        assert ours == optuna_decisions(reference, own, others)
        seen |= set(ours)
    assert seen == {True, False}
