"""The champion's place: closed forms, and how often it changes hands over many nights."""

from __future__ import annotations

import math

import pytest
from scipy.stats import ttest_ind

from bench.champion import NOISE, moves
from pipeline.study.confirmation.champion_rule import Sample, succeed

CHAMPION = Sample(240.0, 0.2, 3)


def sample(values: list[float]) -> Sample:
    mean = sum(values) / len(values)
    squares = sum((value - mean) ** 2 for value in values)
    return Sample(mean, math.sqrt(squares / (len(values) - 1)), len(values))


@pytest.mark.parametrize(
    ("new", "old"),
    [
        ([238.0, 238.4, 237.9], [239.1, 238.9, 239.4]),
        ([238.0, 239.4, 237.9], [239.1, 238.2, 239.4]),
        ([239.0, 239.5], [238.0, 238.1, 238.2, 238.4]),
    ],
)
def test_one_newcomer_is_judged_by_students_test(new: list[float], old: list[float]) -> None:
    verdict = succeed(sample(old), [sample(new)])
    expected = ttest_ind(new, old, alternative="less").pvalue
    assert verdict.p_newcomer == pytest.approx(expected)
    assert verdict.p_all == pytest.approx(expected)
    assert verdict.better == (expected < 0.01)


def test_a_champion_that_scatters_is_judged_by_its_own_scatter() -> None:
    old, new = [238.0, 240.0, 242.0], [237.99, 238.0, 238.01]
    verdict = succeed(sample(old), [sample(new)])
    welch = ttest_ind(new, old, equal_var=False, alternative="less").pvalue
    assert verdict.p_newcomer == pytest.approx(welch)


def test_newcomers_strengthen_each_other_but_promote_none_that_is_not_better() -> None:
    good, bad = Sample(239.5, 0.2, 3), Sample(240.1, 0.2, 3)
    assert not succeed(CHAMPION, [good]).better
    assert succeed(CHAMPION, [good] * 5).better
    verdict = succeed(CHAMPION, [good] * 5 + [bad])
    assert verdict.p_all < 0.01
    assert not verdict.better


def test_a_single_seed_is_judged_by_the_champions_noise_and_two_single_ones_never() -> None:
    assert succeed(CHAMPION, [Sample(238.0, 0.0, 1)]).better
    single = succeed(Sample(240.0, 0.0, 1), [Sample(100.0, 0.0, 1)])
    assert math.isnan(single.p_newcomer)
    assert not single.better


def test_equal_values_move_nothing() -> None:
    same = Sample(240.0, 0.0, 3)
    assert not succeed(same, [same, same]).better
    assert succeed(same, [Sample(239.9, 0.0, 3)]).better


def test_without_gain_the_champion_stays_over_many_nights() -> None:
    """At most 5 % of histories; of 150, 13 or more would be a chance of 3 % at exactly 5 %."""
    assert sum(night <= 15 for night in moves(0.0, 3, NOISE, NOISE, 150, 15)) < 13


@pytest.mark.slow
def test_the_published_histories() -> None:
    without = moves(0.0, 3, NOISE, NOISE, 500, 30)
    assert sum(night <= 30 for night in without) <= 25
    gained = moves(0.5, 3, NOISE, NOISE, 500, 10)
    assert sum(night <= 10 for night in gained) >= 400
