"""Champion and challenger: who leads, and that asking twice changes nothing."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from records import START, Store, study

from pipeline.sync.champion import judge
from pipeline.tracking.records import Metric
from pipeline.tracking.registry import DECISION_TAG, Registration, Score, Winner, register
from pipeline.tracking.store import MirrorUnavailable

SCORE = Score(240.0, 0.25, 3, "data-1", "gaussian", "0.7")


def test_one_seed_against_one_seed_never_leads() -> None:
    one = replace(SCORE, sd_nats=0.0, seeds=1)
    better, reason = judge(one, [replace(one, mean_nats=100.0)])
    assert not better
    assert "raise retrain.seeds" in reason


def test_a_version_is_among_the_models_of_its_experiment(store: Store) -> None:
    """With its figures, and where they are from; its files stay with the run."""
    figures = [
        Metric("test_nelbo_nats", 241.0, 0, START),
        Metric("test_nelbo_nats", 240.0, 1, START),
    ]
    others = [Metric("search_best_nelbo_nats", 250.0, 0, START)]
    run = study(status="FINISHED", end_ms=START + 1, metrics=figures + others)
    run_id = store.mirror().sync(store.name, [run]).run_ids[run.key]
    winner = Winner(run_id, "model", "a", SCORE, params={"lr": "0.001"}, page="**Winner**")
    register(store.uri, store.name, winner, judge)

    (model,) = store.client.search_logged_models([store.experiment_id])
    name = f"{store.name}-1"
    assert (model.name, model.status, model.source_run_id) == (name, "READY", run_id)
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": store.name, "version": "1"}]
    assert model.params == {"lr": "0.001"}
    (metric,) = model.metrics
    assert (metric.key, metric.value) == ("test_nelbo_nats", 240.0)  # as it is now
    assert (metric.dataset_name, metric.dataset_digest) == ("fashion-mnist", "d" * 36)
    assert len(store.client.get_metric_history(run_id, metric.key)) == len(figures)

    link = f"#/experiments/{store.experiment_id}/models/{model.model_id}"
    reason, more, page = store.client.get_model_version(store.name, "1").description.split("\n\n")
    assert (reason, page) == ("the first version", "**Winner**")
    assert more == f"[Metrics, data and lineage]({link})"


def test_a_version_of_a_name_that_was_deleted_and_given_again_is_another_model(
    store: Store, run_id: str
) -> None:
    for digest, lr in (("a", "0.1"), ("b", "0.2")):
        winner = Winner(run_id, "model", digest, SCORE, params={"lr": lr})
        assert register(store.uri, store.name, winner, judge).version == 1
        models = store.client.search_logged_models([store.experiment_id])
        (of_it,) = (model for model in models if "mlflow.modelVersions" in model.tags)
        assert of_it.params == winner.params
        page = store.client.get_model_version(store.name, "1").description
        assert of_it.model_id in page
        store.client.delete_registered_model(store.name)
    assert len(models) == 2


def test_a_champion_whose_score_is_no_number_is_led_by_hand(store: Store, run_id: str) -> None:
    register(store.uri, store.name, Winner(run_id, "model", "a", SCORE), judge)
    store.client.set_model_version_tag(store.name, "1", "vae_pipeline.nelbo_nats", "some 240")
    second = register(store.uri, store.name, Winner(run_id, "model", "b", SCORE), judge)
    assert not second.champion
    assert "the champion has no score to compare with" in second.reason


def aliases(store: Store) -> dict[str, str]:
    held = store.client.get_registered_model(store.name).aliases
    return {alias: str(version) for alias, version in held.items()}


@pytest.fixture
def run_id(store: Store) -> str:
    run = study(status="FINISHED", end_ms=START + 1)
    return store.mirror().sync(store.name, [run]).run_ids["fashion-1a2b"]


def test_the_champion_moves_only_for_a_better_model(store: Store, run_id: str) -> None:
    def enter(digest: str, mean: float) -> Registration:
        winner = Winner(run_id, "model", digest, replace(SCORE, mean_nats=mean))
        return register(store.uri, store.name, winner, judge)

    assert enter("a", 240.0) == Registration(1, True, "the first version")
    assert aliases(store) == {"champion": "1"}

    within_noise = enter("b", 239.9)
    assert (within_noise.version, within_noise.champion) == (2, False)
    assert "version 2 against version 1: nelbo_nats 239.90 against 240.00" in within_noise.reason
    assert aliases(store) == {"champion": "1", "challenger": "2"}

    assert enter("c", 238.0).champion
    assert aliases(store) == {"champion": "3", "challenger": "1"}

    version = store.client.get_model_version(store.name, "2")
    assert version.description.splitlines()[0] == within_noise.reason
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
        "create_logged_model",
        "log_batch",
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
            register(store.uri, store.name, winner, judge)
    for _ in range(2):
        assert register(store.uri, store.name, winner, judge).version == 1
    assert aliases(store) == {"champion": "1"}
    assert len(store.client.search_logged_models([store.experiment_id])) == 1


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"data": "data-2"}, "data is data-2, the champion's data-1"),
        ({"likelihood": "bernoulli", "sigma": "none"},
         "likelihood is bernoulli, the champion's gaussian, sigma is none, the champion's 0.7"),
        ({"sigma": "0.1"}, "sigma is 0.1, the champion's 0.7"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_a_challenger(
    store: Store, run_id: str, changes: dict[str, str], difference: str
) -> None:
    register(store.uri, store.name, Winner(run_id, "model", "a", SCORE), judge)
    other = replace(SCORE, mean_nats=-900.0, **changes)
    entered = register(store.uri, store.name, Winner(run_id, "model", "b", other), judge)
    assert not entered.champion
    assert f"not comparable: {difference}; set the alias by hand" in entered.reason
    assert aliases(store) == {"champion": "1", "challenger": "2"}
    held = store.client.get_model_version(store.name, "2")
    assert held.description.splitlines()[0] == entered.reason
    for _ in range(2):  # nor does it count as a look at the champion
        alike = replace(SCORE, mean_nats=236.0)
        entered = register(store.uri, store.name, Winner(run_id, "model", "c", alike), judge)
        assert "for all 1 newcomers" in entered.reason
        assert entered.champion


def test_a_version_that_somebody_else_made_is_not_replaced(store: Store, run_id: str) -> None:
    store.client.create_registered_model(store.name)
    store.client.create_model_version(store.name, f"runs:/{run_id}/model", run_id)
    store.client.set_registered_model_alias(store.name, "champion", "1")
    entered = register(store.uri, store.name, Winner(run_id, "model", "a", SCORE), judge)
    assert "no score to compare with" in entered.reason
    assert aliases(store) == {"champion": "1", "challenger": "2"}


def test_every_night_counts_whoever_asks(store: Store, run_id: str) -> None:
    """The looks are in the tags of the versions: nothing else is kept, and a decision is final."""

    def enter(night: int) -> Registration:
        score = replace(SCORE, mean_nats=239.4 if night else 240.0)
        return register(store.uri, store.name, Winner(run_id, "model", str(night), score), judge)

    reasons = [enter(night).reason for night in range(5)]
    for night in (1, 2):
        assert f"for all {night} newcomers (0.01 is asked for)" in reasons[night]
    moved = [" is better " in reason for reason in reasons]
    assert moved.index(True) == 2  # one newcomer alone is not enough, two together are
    assert aliases(store)["champion"] == "3"
    assert "against version 3" in reasons[3]
    assert "for all 1 newcomers" in reasons[3]  # the new champion is looked at afresh
    assert [enter(night).reason for night in range(5)] == reasons


def test_a_score_of_before_sigma_was_recorded_can_be_read() -> None:
    tags = replace(SCORE, likelihood="bernoulli", sigma="none").tags()
    del tags["vae_pipeline.sigma"]
    assert Score.from_tags(tags) == replace(SCORE, likelihood="bernoulli", sigma="none")
    gaussian = Score.from_tags(tags | {"vae_pipeline.likelihood": "gaussian"})
    assert gaussian
    assert gaussian.sigma == "not recorded"


def test_a_page_stands_below_the_reason(store: Store, run_id: str) -> None:
    winner = Winner(run_id, "model", "a", SCORE, page="Sweep **tiny**\n\n| metric | value |")
    entered = register(store.uri, store.name, winner, judge)
    (held,) = store.client.search_model_versions(f"name = '{store.name}'")
    reason, _, below = held.description.split("\n\n", 2)
    assert (reason, below) == (entered.reason, winner.page)
    store.client.delete_model_version_tag(store.name, held.version, DECISION_TAG)  # interrupted
    assert register(store.uri, store.name, winner, judge).reason == entered.reason
    assert store.client.get_model_version(store.name, held.version).description == held.description
