"""Champion and challenger: who leads, and that asking twice changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from records import START, Store, study
from scipy.stats import ttest_ind

from pipeline.tracking.registry import Registration, Score, Winner, compare, register
from pipeline.tracking.store import MirrorUnavailable

SCORE = Score(240.0, 0.5, 3, "data-1", "bernoulli")


def score(nelbos: list[float]) -> Score:
    mean = sum(nelbos) / len(nelbos)
    squares = sum((value - mean) ** 2 for value in nelbos)
    sd = (squares / (len(nelbos) - 1)) ** 0.5 if len(nelbos) > 1 else 0.0
    return Score(mean, sd, len(nelbos), "data-1", "bernoulli")


@pytest.mark.parametrize(
    ("new", "old"),
    [
        ([238.0, 238.4, 237.9], [239.1, 238.9, 239.4]),
        ([238.0, 239.4, 237.9], [239.1, 238.2, 239.4]),
        ([239.0, 239.5], [238.0, 238.1, 238.2, 238.4]),
        ([238.0], [239.1, 238.9, 239.4]),
    ],
)
def test_better_beyond_seed_noise_is_the_t_test(new: list[float], old: list[float]) -> None:
    if len(new) > 1:
        expected = ttest_ind(new, old, alternative="less").pvalue < 0.05
    else:  # pooled: the noise is the old side's, t(0.95; 2) = 2.92
        expected = sum(old) / 3 - new[0] > 2.92 * score(old).sd_nats * (1 + 1 / 3) ** 0.5
    assert compare(score(new), score(old))[0] == expected


def test_one_seed_against_one_seed_never_leads() -> None:
    better, reason = compare(score([100.0]), score([240.0]))
    assert not better
    assert "raise retrain.seeds" in reason


@pytest.mark.parametrize(
    ("new", "difference"),
    [
        (replace(SCORE, mean_nats=900.0, data="data-2"), "data is data-2, was data-1"),
        (replace(SCORE, likelihood="gaussian"), "likelihood is gaussian, was bernoulli"),
    ],
)
def test_what_cannot_be_compared_replaces(new: Score, difference: str) -> None:
    better, reason = compare(new, SCORE)
    assert better
    assert reason == f"{difference}: not comparable, so the newer model leads"


def aliases(store: Store) -> dict[str, str]:
    held = store.client.get_registered_model(store.name).aliases
    return {alias: str(version) for alias, version in held.items()}


@pytest.fixture
def run_id(store: Store) -> str:
    run = study(status="FINISHED", end_ms=START + 1)
    return store.mirror().sync(store.name, [run]).run_ids["fashion-1a2b"]


def test_the_champion_moves_only_for_a_better_model(store: Store, run_id: str) -> None:
    def enter(digest: str, mean: float) -> Registration:
        winner = Winner(run_id, "model", digest, replace(SCORE, mean_nats=mean), {"git": "abc"})
        return register(store.uri, store.name, winner)

    assert enter("a", 240.0) == Registration(1, True, "the first version")
    assert aliases(store) == {"champion": "1"}

    within_noise = enter("b", 239.9)
    assert (within_noise.version, within_noise.champion) == (2, False)
    assert "version 2 against version 1: nelbo_nats 239.90 against 240.00" in within_noise.reason
    assert aliases(store) == {"champion": "1", "challenger": "2"}

    assert enter("c", 238.0).champion
    assert aliases(store) == {"champion": "3", "challenger": "1"}

    version = store.client.get_model_version(store.name, "2")
    assert version.description == within_noise.reason
    assert version.tags["git"] == "abc"
    assert version.source == f"runs:/{run_id}/model"

    assert enter("b", 239.9) == within_noise
    assert aliases(store) == {"champion": "3", "challenger": "1"}
    store.client.delete_registered_model_alias(store.name, "champion")
    assert not enter("c", 238.0).champion
    assert len(store.client.search_model_versions(f"name = '{store.name}'")) == 3


@pytest.mark.parametrize(
    "call",
    [
        "create_registered_model",
        "create_model_version",
        "set_registered_model_alias",
        "update_model_version",
        "set_model_version_tag",
    ],
)
def test_an_interrupted_registration_is_completed(
    store: Store, run_id: str, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    real = getattr(MlflowClient, call)

    def failing(*args: object, **kwargs: object) -> None:
        real(*args, **kwargs)
        raise MlflowException("the reply was lost")

    winner = Winner(run_id, "model", "a", SCORE)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, call, failing)
        with pytest.raises(MirrorUnavailable, match="the reply was lost"):
            register(store.uri, store.name, winner)
    for _ in range(2):
        assert register(store.uri, store.name, winner).version == 1
    assert aliases(store) == {"champion": "1"}


def test_a_version_that_somebody_else_made_is_replaced(store: Store, run_id: str) -> None:
    store.client.create_registered_model(store.name)
    store.client.create_model_version(store.name, f"runs:/{run_id}/model", run_id)
    store.client.set_registered_model_alias(store.name, "champion", "1")
    entered = register(store.uri, store.name, Winner(run_id, "model", "a", SCORE))
    assert "no score to compare with" in entered.reason
    assert aliases(store) == {"champion": "2", "challenger": "1"}
