"""What a search makes of its trials: ranking, fallback, and what makes trials comparable."""

from __future__ import annotations

from typing import Any

import pytest
from studies import record, space, trial, whole

from pipeline.errors import UserError
from pipeline.stages.search import _best
from pipeline.study.identity import candidate_study, search_study
from pipeline.study.storage.ledger import Trial

DATA = "d" * 64


def best(trials: list[Trial], **sections: dict[str, Any]) -> dict[str, Any]:
    sweep = space(**sections)
    return _best(sweep, search_study(sweep, DATA), [whole(each) for each in trials])


def watched(number: int, beta: float, monitor: str, epochs: list[tuple[float, float]]) -> Trial:
    """A trial of (recon, KL) an epoch that stopped by its own `monitor`."""
    curve = [record(epoch, *parts) for epoch, parts in enumerate(epochs, start=1)]
    kept = min(curve, key=lambda r: r["nelbo_nats" if monitor == "total" else "recon_nats"])
    parameters = {"beta": beta, "monitor": monitor}
    return trial(number, parameters=parameters, curve=curve, state="complete",
                 result={**kept, "weights": 1})  # fmt: skip


def notebooks_value(each: Trial) -> float:
    """min(history[monitor]), as a notebook compares trials: each by the loss it watches itself."""
    assert each.parameters is not None
    beta, monitor = each.parameters["beta"], each.parameters["monitor"]
    return min(
        r["recon_nats"] + (beta * r["kl_nats"] if monitor == "total" else 0) for r in each.curve
    )


HONEST = watched(0, 1.0, "total", [(240, 10), (226, 14), (225, 14)])  # NELBO 239
ALTERNATIVES = {
    "watches reconstruction alone": watched(1, 1.0, "recon", [(238, 12), (227, 18), (225, 22)]),
    "has a small beta": watched(1, 0.25, "total", [(235, 20), (222, 29), (220, 31)]),
}


@pytest.mark.parametrize("other", ALTERNATIVES.values(), ids=ALTERNATIVES)
def test_min_of_the_watched_loss_crowns_the_worse_model_and_the_ranking_does_not(
    other: Trial,
) -> None:
    assert other.result is not None
    assert HONEST.result is not None
    assert other.result["nelbo_nats"] > HONEST.result["nelbo_nats"]
    assert notebooks_value(other) < notebooks_value(HONEST)
    ranking = best([HONEST, other])["ranking"]
    assert [entry["number"] for entry in ranking] == [0, 1]
    assert ranking[0]["nelbo_nats"] == 239


def test_ranking_is_by_nelbo_then_number_of_complete_and_paused_trials() -> None:
    trials = [
        trial(0, 30.0),
        trial(1, 25.0, state="pruned"),
        trial(2),
        trial(3, 28.0),
        trial(4, 28.0),
        trial(5, 29.0, state="paused"),
    ]
    made = best(trials)
    assert [entry["number"] for entry in made["ranking"]] == [3, 4, 5, 0]
    assert made["number"] == 3
    assert made["trials"] == {"complete": 3, "pruned": 1, "paused": 1, "failed": 1}


def test_a_setting_is_ranked_once() -> None:
    same = {"beta": 1.0, "monitor": "total"}
    trials = [trial(0, 30.0, parameters=same), trial(1, 29.0, parameters=same), trial(2, 31.0)]
    assert [entry["number"] for entry in best(trials)["ranking"]] == [1, 2]


def test_best_holds_the_full_setting() -> None:
    made = best([trial(0, 30.0, parameters={"beta": 0.25, "monitor": "recon"})])
    assert made["parameters"]["beta"] == 0.25
    assert made["parameters"]["optimizer"] == "adam"


def test_without_success_and_fallback_the_error_says_why() -> None:
    reasons = ["out of memory: 3 GiB\nTraceback ...", "the training loss is not finite in epoch 2"]
    trials = [trial(n, reason=reason) for n, reason in enumerate(reasons * 2)]
    with pytest.raises(UserError) as caught:
        best(trials)
    assert str(caught.value) == (
        "search tiny: none of 4 trials succeeded: out of memory: 3 GiB; the training loss is not"
        " finite in epoch 2: change what is searched (a lower lr, if they diverged), set"
        " search.fallback, or train them again by `python -m pipeline retry tiny`"
    )


def test_without_success_the_fallback_goes_on() -> None:
    made = best([trial(0)], search={"fallback": {"beta": 1.0, "latent_dim": 2}})
    assert made["number"] is None
    assert made["ranking"] == [
        {"number": None, "nelbo_nats": None, "parameters": {"beta": 1.0, "latent_dim": 2}}
    ]
    assert made["parameters"]["latent_dim"] == 2


def test_a_fallback_is_not_used_while_a_trial_succeeds() -> None:
    made = best([trial(0), trial(1, 30.0)], search={"fallback": {"latent_dim": 2}})
    assert made["number"] == 1


SAME_STUDY: list[dict[str, Any]] = [
    {"search": {"trials": 50}},
    {"search": {"fallback": {"latent_dim": 2}}},
    {"retrain": {"epochs": 9}},
    {"render": {"images": 3}},
]
OTHER_STUDY: list[dict[str, Any]] = [
    {"search": {"epochs": 4}},
    {"search": {"seed": 1}},
    {"search": {"parallelism": 3}},
    {"search": {"pruner": "none"}},
    {"model": {"likelihood": "laplace"}},
    {"parameters": {"optimizer": "sgd"}},
    {"parameters": {"beta": {"choices": [0.25, 0.5]}}},
]


@pytest.mark.parametrize("sections", SAME_STUDY, ids=str)
def test_what_leaves_trials_comparable_extends_the_study(sections: dict[str, Any]) -> None:
    assert search_study(space(**sections), DATA).id == search_study(space(), DATA).id


@pytest.mark.parametrize("sections", OTHER_STUDY, ids=str)
def test_what_makes_trials_incomparable_forks_the_study(sections: dict[str, Any]) -> None:
    assert search_study(space(**sections), DATA).id != search_study(space(), DATA).id
    assert search_study(space(), "e" * 64).id != search_study(space(), DATA).id


@pytest.mark.parametrize(
    "sections",
    [
        {"parameters": {"optimizer": "sgd"}},
        {"parameters": {"schedule": "cosine"}},
        {"retrain": {"epochs": 9}},
        {"search": {"seed": 1}},
        {"model": {"likelihood": "laplace"}},
    ],
    ids=str,
)
def test_a_candidate_is_its_whole_setting_not_its_searched_part(sections: dict[str, Any]) -> None:
    """A fixed value that changes leaves proposals as they are, but not what they are worth."""
    chosen = {"beta": 1.0, "monitor": "total"}
    changed = candidate_study(space(**sections), DATA, chosen)
    assert changed.id != candidate_study(space(), DATA, chosen).id


def test_more_seeds_extend_a_candidate() -> None:
    chosen = {"beta": 1.0, "monitor": "total"}
    more = candidate_study(space(retrain={"seeds": 9}), DATA, chosen)
    assert more.id == candidate_study(space(), DATA, chosen).id
    assert more.budget == 9
