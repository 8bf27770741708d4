"""The winner among candidates: seed noise, ties, failures, and what is said about them."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from crews import make_sweep, sweep
from studies import space, trial

from pipeline.errors import UserError
from pipeline.paths import write_json
from pipeline.stages import retrain
from pipeline.study.identity import candidate_study
from pipeline.study.winner import Candidate, choose

HARD = np.array([-30.0, 0.0, 30.0])  # how much harder than the mean every image is, for all alike


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
    measured = np.array([value for value in values if value is not None])[:, None] + HARD
    return Candidate(index, entry, candidate_study(space(), "d" * 64, parameters), runs, measured)


def test_the_lowest_mean_wins_beyond_noise_however_large_it_is() -> None:
    small = candidate(0, [30.0, 30.1, 29.9], weights=10)
    large = candidate(1, [25.0, 25.1, 24.9], weights=1000)
    verdict = choose([small, large])
    assert verdict.winner is large
    assert verdict.sentence == (
        "Candidate 1 is better than every other beyond the noise of 3 seeds: candidate 0 is worse"
        " than candidate 1 by 5.00 nats (95 % interval 4.77 … 5.23)."
    )


def test_within_noise_the_smallest_model_wins() -> None:
    large = candidate(0, [25.0, 25.4, 24.6], weights=1000)
    small = candidate(1, [25.1, 25.5, 24.7], weights=10)
    far = candidate(2, [40.0, 40.4, 39.6], weights=1)
    verdict = choose([large, small, far])
    assert (verdict.winner, verdict.leader, verdict.equals) == (small, large, [large, small])
    assert verdict.sentence == (
        "Candidates 0, 1 cannot be told apart on 3 seeds: candidate 1 is worse than candidate 0 by"
        " 0.10 nats (95 % interval -0.81 … 1.01). Candidate 1 wins as the smallest model."
    )


def test_a_small_model_does_not_tie_by_its_own_instability() -> None:
    large = candidate(0, [25.0, 25.1, 24.9], weights=1000)
    unstable = candidate(1, [24.0, 26.0, 31.0], weights=10)
    verdict = choose([large, unstable])
    assert verdict.winner is large
    assert verdict.sentence.startswith(
        "Candidate 0 has the lowest mean, beyond the noise of its own 3 seeds: candidate 1"
    )


def test_of_equals_the_lowest_mean_wins_then_the_first() -> None:
    noisy, better = candidate(0, [25.0, 26.0, 24.5]), candidate(1, [25.0, 26.0, 24.0])
    verdict = choose([noisy, better])
    assert verdict.winner is better
    assert verdict.sentence.endswith("wins as the lowest mean and no larger a model.")
    twins = [candidate(0, [25.0, 25.0]), candidate(1, [25.0, 25.0])]
    assert choose(twins).winner is twins[0]


def test_a_single_seed_knows_nothing_of_noise_and_says_so() -> None:
    verdict = choose([candidate(0, [25.0], weights=1), candidate(1, [24.9], weights=9)])
    assert verdict.winner.index == 1
    assert verdict.sentence == (
        "Candidate 1 has the lowest NELBO, on a single seed: whether it is better than the others"
        " is not known."
    )


def test_a_candidate_that_failed_on_a_seed_cannot_win() -> None:
    lucky = candidate(0, [20.0, None, 20.0])
    sound = candidate(1, [25.0, 25.1, 25.2])
    verdict = choose([lucky, sound])
    assert verdict.winner is sound
    assert verdict.sentence == "Candidate 1 is the only one that did not fail."
    assert lucky.mean == math.inf


def test_a_lone_candidate_is_called_so() -> None:
    assert choose([candidate(0, [25.0, 25.1])]).sentence == "Candidate 0 is the only one."


def test_when_all_failed_the_error_says_why() -> None:
    with pytest.raises(UserError) as caught:
        choose([candidate(0, [None, 25.0]), candidate(1, [None, None])])
    assert str(caught.value) == (
        "retrain: every candidate failed on some seed: the training loss is not finite in epoch 1:"
        " choose a tamer search space"
    )


def test_weights_that_someone_has_deleted_are_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_sweep(tmp_path, sweep(retrain={"top": 1}))
    setting = {"lr": 0.02}
    assert made.worker(None, setting).work() == 0
    best = {"ranking": [{"number": 0, "nelbo_nats": 1.0, "parameters": setting}], "study": "tiny-0"}
    write_json(made.paths.search / "best.json", best)
    retrain.run(made.space, made.machine(), made.paths)
    before = made.outputs("retrain")
    (study,) = made.candidates(setting)
    shutil.rmtree(made.paths.trial(study.id, 1))
    retrain.run(made.space, made.machine(), made.paths)
    assert made.outputs("retrain") == before
    assert "are gone: training them again" in capsys.readouterr().err
