"""Differences of candidates: closed forms, and how often intervals and ties are right."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.study.confirmation.compare import Matrix, difference, interval, within_noise


def matrix(means: list[float], images: int = 4, hard: float = 0.0) -> Matrix:
    """Seeds with these means; the images differ by `hard`, alike for every seed."""
    effects = hard * np.array([-1.0, 1.0] * (images // 2))
    return np.array(means)[:, None] + effects


def test_interval_is_students() -> None:
    """Mean 2, standard deviation 1, t(0.975; 2 degrees) = 4.302653."""
    half = 4.302653 / math.sqrt(3)
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2 - half, 2 + half), rel=1e-6)
    assert interval([1.0, 2.0]) == pytest.approx((1.5 - 12.7062 / 2, 1.5 + 12.7062 / 2), rel=1e-5)
    assert interval([5.0, 5.0]) == (5.0, 5.0)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.inf]])
def test_there_is_no_interval_of_one_value_or_of_a_failure(values: list[float]) -> None:
    assert interval(values) is None


def test_seeds_alone_give_welchs_interval() -> None:
    """Variances 1/3 and 1/3 of the means: standard error √(2/3), 4 degrees, t = 2.776445."""
    gap = difference(matrix([11.0, 12.0, 13.0]), matrix([1.0, 2.0, 3.0]))
    half = 2.776445 * math.sqrt(2 / 3)
    assert gap.mean == pytest.approx(10)
    assert gap.seed_error == pytest.approx(math.sqrt(2 / 3))
    assert gap.image_error == 0
    assert (gap.low, gap.high) == pytest.approx((10 - half, 10 + half))


def test_images_alone_give_the_paired_t_interval() -> None:
    """Differences 0, 2, 0, 2: mean 1, standard error √(4/3 / 4), t(0.975; 3) = 3.182446."""
    gap = difference(matrix([6.0, 6.0], hard=1.0), matrix([5.0, 5.0], hard=2.0))
    assert gap.image_error == pytest.approx(math.sqrt(1 / 3))
    assert gap.seed_error == 0
    assert gap.high == pytest.approx(1 + 3.182446 * math.sqrt(1 / 3))


def test_what_makes_an_image_hard_for_all_cancels() -> None:
    gaps = [difference(matrix([6.0, 7.0], hard=h), matrix([5.0, 5.5], hard=h)) for h in (0, 99)]
    assert gaps[0] == gaps[1]


def test_a_single_seed_has_images_but_no_interval_and_no_tie() -> None:
    one, other = matrix([5.0], hard=1.0), matrix([5.0], hard=2.0)
    gap = difference(one, other)
    assert gap.image_error > 0
    assert math.isnan(gap.seed_error)
    assert math.isnan(gap.low)
    assert not within_noise(one, other)


def test_an_unstable_candidate_is_no_tie_although_its_interval_reaches_the_leader() -> None:
    leader, unstable = matrix([10.0, 10.1, 10.2]), matrix([9.0, 11.2, 13.4])
    assert difference(unstable, leader).low < 0
    assert not within_noise(unstable, leader)
    assert within_noise(matrix([10.0, 10.2, 10.4]), leader)


def test_a_steady_candidate_is_judged_by_both_scatters() -> None:
    """As if both scattered like the leader, the lead of 3.1 would be within the noise."""
    leader, steady = matrix([10.0, 12.0, 14.0]), matrix([15.1, 15.1, 15.1])
    assert difference(steady, leader).low < 0  # 2 degrees of freedom: t = 4.3
    assert within_noise(steady, leader)
    assert not within_noise(matrix([17.1, 17.1, 17.1]), leader)


def equals(seeds: int, scatters: tuple[float, float], random: np.random.Generator) -> list[Matrix]:
    """Two settings that are equally good: hard images, seeds, and what is neither's alone."""
    hard = random.normal(0, 30, 60)
    return [
        hard + random.normal(0, scatter, (seeds, 1)) + random.normal(0, 1, (seeds, 60))
        for scatter in scatters
    ]


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("scatters", [(0.2, 0.2), (0.2, 1.0)])
def test_95_of_100_intervals_hold_the_true_difference(
    seeds: int, scatters: tuple[float, float]
) -> None:
    random = np.random.default_rng(0)
    gaps = [difference(*equals(seeds, scatters, random)) for _ in range(600)]
    assert 0.9 < np.mean([gap.low <= 0 <= gap.high for gap in gaps]) < 0.99


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_nine_of_ten_equals_are_called_so(seeds: int) -> None:
    random = np.random.default_rng(0)
    pairs = [sorted(equals(seeds, (0.2, 0.2), random), key=np.mean) for _ in range(600)]
    assert 0.85 < np.mean([within_noise(other, leader) for leader, other in pairs]) < 0.97


@pytest.mark.parametrize(("one", "other"), [(3, 1), (1, 3), (1, 1)])
def test_a_single_seed_on_either_side_leaves_no_interval(one: int, other: int) -> None:
    gap = difference(matrix([5.0, 6.0, 7.0][:one]), matrix([1.0, 2.0, 3.0][:other]))
    assert [math.isnan(each) for each in (gap.seed_error, gap.low, gap.high)] == [True] * 3
    assert gap.image_error == 0


def test_a_single_image_leaves_no_interval_and_no_tie() -> None:
    one, other = np.array([[5.0], [6.0]]), np.array([[5.1], [6.1]])
    gap = difference(other, one)
    assert gap.mean == pytest.approx(0.1)
    assert gap.seed_error > 0
    assert [math.isnan(each) for each in (gap.image_error, gap.low, gap.high)] == [True] * 3
    assert not within_noise(other, one)
