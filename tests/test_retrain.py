"""The winner among candidates: seed noise, ties, failures, and what is said about them."""

from __future__ import annotations

import math

import pytest
from studies import space, trial

from pipeline.errors import UserError
from pipeline.stages.retrain import Candidate, choose, interval, least_significant_difference
from pipeline.study.identity import candidate_study


def candidate(index: int, values: list[float | None], weights: int = 100) -> Candidate:
    """A candidate whose runs ended with these validation NELBOs; None: the run failed."""
    parameters = {"beta": 1.0, "monitor": "total", "latent_dim": index + 1}
    runs = [
        trial(n, value, result={"nelbo_nats": value, "weights": weights})
        if value is not None
        else trial(n)
        for n, value in enumerate(values)
    ]
    entry = {"number": 10 + index, "nelbo_nats": 0.0, "parameters": parameters}
    return Candidate(index, entry, candidate_study(space(), "d" * 64, parameters), runs)


def test_interval_is_students() -> None:
    """Mean 2, standard deviation 1, t(0.975; 2 degrees) = 4.302653."""
    assert interval([1.0, 2.0, 3.0]) == pytest.approx(
        (2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), rel=1e-6
    )
    assert interval([5.0, 5.0]) == (5.0, 5.0)


def test_interval_of_two_values_spans_12_706_half_differences() -> None:
    assert interval([1.0, 2.0]) == pytest.approx((1.5 - 12.7062 / 2, 1.5 + 12.7062 / 2), rel=1e-5)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.inf]])
def test_there_is_no_interval_of_one_value_or_of_a_failure(values: list[float]) -> None:
    assert interval(values) is None


def test_least_significant_difference_pools_the_seeds_of_all_candidates() -> None:
    """Each group has squares 2; pooled variance 4/4 = 1; t(0.975; 4) = 2.776445; √(2/3)."""
    groups = [[1.0, 2.0, 3.0], [11.0, 12.0, 13.0]]
    assert least_significant_difference(groups) == pytest.approx(2.776445 * math.sqrt(2 / 3))
    assert least_significant_difference([[1.0], [9.0]]) == 0


def test_the_lowest_mean_wins_beyond_noise_however_large_it_is() -> None:
    small = candidate(0, [30.0, 30.1, 29.9], weights=10)
    large = candidate(1, [25.0, 25.1, 24.9], weights=1000)
    winner, sentence = choose([small, large])
    assert winner is large
    assert sentence.startswith("Candidate 1 is better than every other beyond the noise of 3 seeds")


def test_within_noise_the_smallest_model_wins() -> None:
    large = candidate(0, [25.0, 25.4, 24.6], weights=1000)
    small = candidate(1, [25.1, 25.5, 24.7], weights=10)
    far = candidate(2, [40.0, 40.4, 39.6], weights=1)
    winner, sentence = choose([large, small, far])
    assert winner is small
    assert sentence.startswith("Candidates 0, 1 cannot be told apart")
    assert sentence.endswith("Candidate 1 wins as the smallest model.")


def test_of_equals_the_lowest_mean_wins_then_the_first() -> None:
    noisy, better = candidate(0, [25.0, 26.0, 24.5]), candidate(1, [25.0, 26.0, 24.0])
    winner, sentence = choose([noisy, better])
    assert winner is better
    assert sentence.endswith("wins as the lowest mean and no larger a model.")
    twins = [candidate(0, [25.0, 25.0]), candidate(1, [25.0, 25.0])]
    assert choose(twins)[0] is twins[0]


def test_a_single_seed_knows_nothing_of_noise_and_says_so() -> None:
    winner, sentence = choose([candidate(0, [25.0], weights=1), candidate(1, [24.9], weights=9)])
    assert winner.index == 1
    assert sentence == (
        "Candidate 1 has the lowest NELBO, on a single seed: whether it is better than the others"
        " is not known."
    )


def test_a_candidate_that_failed_on_a_seed_cannot_win() -> None:
    lucky = candidate(0, [20.0, None, 20.0])
    sound = candidate(1, [25.0, 25.1, 25.2])
    winner, sentence = choose([lucky, sound])
    assert winner is sound
    assert sentence == "Candidate 1 is the only one that did not fail."
    assert lucky.mean == math.inf


def test_a_lone_candidate_is_called_so() -> None:
    assert choose([candidate(0, [25.0, 25.1])])[1] == "Candidate 0 is the only one."


def test_when_all_failed_the_error_says_why() -> None:
    with pytest.raises(UserError) as caught:
        choose([candidate(0, [None, 25.0]), candidate(1, [None, None])])
    assert str(caught.value) == (
        "retrain: every candidate failed on some seed: the training loss is not finite in epoch 1:"
        " choose a tamer search space"
    )
