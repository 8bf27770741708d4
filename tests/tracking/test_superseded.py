"""What MLflow shows is what is so now, after any history of what was so before."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recording import record_stages
from records import START, Store, copy_db, study, trial
from servers import Server
from sweeps import CHOSEN, Desk

from pipeline.files import write_json
from pipeline.results.keys import flat
from pipeline.settings.machine import Machine
from pipeline.sync.follow import sync_all
from pipeline.sync.mlflow_runs import Sweep
from pipeline.tracking.records import Metric, Run
from pipeline.tracking.registry import PREFIX
from pipeline.tracking.store import store_of


def figures(values: dict[str, float], **changes: Any) -> Run:
    points = [Metric(key, value, 0, START) for key, value in values.items()]
    return study(figures=points, figures_are_all=True, **changes)


def shown(store: Store, tags: str) -> dict[str, float]:
    """The metric columns of the one run that has these tags."""
    (run,) = store.client.search_runs([store.experiment_id], tags)
    return {k: v for k, v in run.data.metrics.items() if not math.isnan(v)}


def test_a_smaller_figure_takes_the_place_of_a_larger_one(store: Store) -> None:
    mirror = store.mirror()
    for values in ({"a": 2.0, "b": 1.0}, {"a": 1.0}, {"a": 1.5, "b": 0.5}, {"a": 1.0, "b": 0.5}):
        for lost in (False, True):
            if lost:
                store.cursor.unlink()
                mirror = store.mirror()
            mirror.sync(store.name, [figures(values)])
            assert shown(store, f"tags.`{PREFIX}key` LIKE '%'") == values


def test_figures_that_are_not_known_here_stay(store: Store) -> None:
    store.mirror().sync(store.name, [figures({"a": 1.0}, description="All")])
    store.cursor.unlink()
    other = study(figures=[Metric("c", 3.0, 0, START)], description="", first_description="New")
    store.mirror().sync(store.name, [other])
    assert shown(store, f"tags.`{PREFIX}key` LIKE '%'") == {"a": 1.0, "c": 3.0}
    assert store.dump()["fashion-1a2b"]["tags"]["mlflow.note.content"] == "All"


@pytest.mark.parametrize("lost", [False, True])
def test_a_curve_that_was_trained_otherwise_is_another_run(store: Store, lost: bool) -> None:
    """The trial failed after five epochs, was opened again, and has had two by now."""
    token = "vae_pipeline.token"
    before = trial(0, 5, status="FAILED", tags={token: "1"})
    mirror = store.mirror()
    first = mirror.sync(store.name, [study(), before]).run_ids[before.key]
    if lost:
        store.cursor.unlink()
        mirror = store.mirror()
    points = [Metric("nelbo_nats", 300.0 - e, e, START + e) for e in (1, 2)]
    again = trial(0, status="RUNNING", end_ms=None, metrics=points, tags={token: "2"})
    opened = trial(0, status="RUNNING", end_ms=None, metrics=[], tags={token: "2"},
                   curves=frozenset({"nelbo_nats", "kl_nats"}))  # fmt: skip
    for each in (opened, again, again):
        second = mirror.sync(store.name, [study(), each]).run_ids[before.key]
        held = store.dump()[before.key]["metrics"]
        assert held == ({"nelbo_nats": [(m.step, m.timestamp_ms, m.value) for m in points]}
                        if each.metrics else {})  # fmt: skip
    assert second != first
    assert store.client.get_run(first).info.lifecycle_stage == "deleted"

    mirror.forget(store.name)  # brings back what a person deleted, not what was superseded
    assert mirror.sync(store.name, [study(), again]).run_ids[before.key] == second
    assert len(store.dump()) == 2
    store.cursor.unlink()  # a host that has not heard of the second training tells nothing of it
    store.mirror().sync(store.name, [study(), before])
    assert store.dump()[before.key]["metrics"] == held


def test_a_death_between_the_new_run_and_the_old_ones_end_leaves_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    from pipeline.tracking.store import MirrorUnavailable

    store.mirror().sync(store.name, [study(), trial(0, 5)])
    again = trial(0, metrics=[Metric("nelbo_nats", 1.0, 1, START)])

    def failing(*args: object) -> None:
        raise MlflowException("killed here")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "delete_run", failing)
        with pytest.raises(MirrorUnavailable):
            store.mirror().sync(store.name, [study(), again])
    for _ in range(2):
        store.mirror().sync(store.name, [study(), again])
        assert store.dump()[again.key]["metrics"] == {"nelbo_nats": [(1, START, 1.0)]}


def test_an_epoch_that_was_trained_again_alike_is_no_other_run(store: Store) -> None:
    first = store.mirror().sync(store.name, [study(), trial(0, 3)]).run_ids
    later = [Metric(m.key, m.value, m.step, m.timestamp_ms + 5) for m in trial(0, 4).metrics]
    assert store.mirror().sync(store.name, [study(), trial(0, metrics=later)]).run_ids == first


class History:
    """What people do with a sweep, in any order; then MLflow is asked what it shows."""

    def __init__(self, desk: Desk, seed: int):
        self.desk = desk
        self.random = random.Random(seed)
        self.did: list[str] = []

    def act(self) -> None:
        actions: list[Callable[[], None]] = [
            self.evaluate, self.retrain, self.search, self.other_host, self.lose_cursor,
            self.sync, self.rebuild,
        ]  # fmt: skip
        action = self.random.choice(actions)
        self.did.append(action.__name__)
        action()

    def evaluate(self) -> None:
        metrics = {"nelbo_nats": self.random.choice([90.0, 95.0, 99.0]), "recon_nats": 80.0,
                   "kl_nats": 10.0, "seeds": {"count": self.random.choice([1, 2])}}  # fmt: skip
        if self.random.random() < 0.5:
            metrics |= {"iw_nll_nats": self.random.uniform(80, 90), "iw_samples": 5}
        write_json(self.desk.paths.evaluate / "metrics.json", metrics)
        record_stages(self.desk.paths, self.desk.space, "evaluate", "render")

    def retrain(self) -> None:
        values = [self.random.choice([95.0, 96.0, 98.0]) for _ in range(2)]
        entry = {"study": self.desk.study.id, "candidate": 0, "number": self.random.choice([0, 1])}
        winner = {**entry, "parameters": CHOSEN, "sentence": "It.", "values_nelbo_nats": values}
        write_json(self.desk.paths.retrain / "winner.json", winner)
        record_stages(self.desk.paths, self.desk.space, "retrain", "evaluate", "render")

    def search(self) -> None:
        self.desk.complete(self.desk.study, self.random.uniform(90, 99))

    def other_host(self) -> None:
        """It shares ledger and store, and has none of the outputs."""
        sweep = Sweep(self.desk.space, self.desk.paths, self.desk.ledger, done="prepare")
        uri, artifacts, cursor = store_of(self.desk.machine, self.desk.paths)
        Store(uri, artifacts, cursor.with_name("other.json"), "tiny").mirror().sync(
            "tiny", sweep.changes()
        )

    def lose_cursor(self) -> None:
        store_of(self.desk.machine, self.desk.paths)[2].unlink(missing_ok=True)

    def sync(self) -> None:
        list(sync_all(self.desk.root, self.desk.machine, "tiny", rebuild=False))

    def rebuild(self) -> None:
        list(sync_all(self.desk.root, self.desk.machine, "tiny", rebuild=True))

    def check(self) -> None:
        """After a sync, whatever was done before."""
        self.sync()
        paths = self.desk.paths
        uri, artifacts, cursor = store_of(self.desk.machine, paths)
        store = Store(uri, artifacts, cursor, "tiny")
        stated = flat(json.loads((paths.evaluate / "metrics.json").read_text()))
        winner = json.loads((paths.retrain / "winner.json").read_text())
        trials = self.desk.ledger.trials(self.desk.study.id)
        best = min(trial.result["nelbo_nats"] for trial in trials if trial.result)
        values = winner["values_nelbo_nats"]
        assert shown(store, "tags.kind = 'study'") == {
            **{f"test_{key}": value for key, value in stated.items()},
            "validation_nelbo_nats": sum(values) / len(values),
            "search_best_nelbo_nats": best,
        }, self.did
        (run,) = store.client.search_runs([store.experiment_id], "tags.kind = 'study'")
        assert run.data.tags["winner"] == f"candidate {winner['number']:04d}", self.did
        note = run.data.tags["mlflow.note.content"]
        assert f"Test NELBO **{stated['nelbo_nats']:.2f} nats**" in note
        assert f"Winner: trial {winner['number']}" in note
        for each in trials:
            metrics = shown(store, f"tags.kind = 'trial' and tags.number = '{each.number}'")
            assert metrics["best_nelbo_nats"] == (each.result or {})["nelbo_nats"]
            assert metrics["nelbo_nats"] == each.curve[-1]["nelbo_nats"]


@pytest.fixture
def desk(tmp_path: Path, empty_db: Path) -> Desk:
    desk = Desk(tmp_path / "checkout")
    desk.run_all_stages()
    copy_db(empty_db, desk.paths.mlflow_db)
    return desk


def test_a_second_evaluation_shows(desk: Desk) -> None:
    history = History(desk, 0)
    for value in (99.0, 90.0):
        write_json(desk.paths.evaluate / "metrics.json",
                   {"nelbo_nats": value, "recon_nats": 80.0, "kl_nats": 10.0})  # fmt: skip
        record_stages(desk.paths, desk.space, "evaluate", "render")
        history.check()
    history.other_host()
    history.check()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_after_any_history_mlflow_shows_the_record(desk: Desk, seed: int) -> None:
    history = History(desk, seed)
    for _ in range(3):
        for _ in range(6):
            history.act()
        history.check()


@pytest.mark.slow
def test_a_server_shows_the_record_after_a_history(server: Server, tmp_path: Path) -> None:
    desk = Desk(tmp_path / "checkout", Machine(tracking=server.uri))
    desk.run_all_stages()
    history = History(desk, 7)
    for _ in range(10):
        history.act()
    history.check()
    write_json(desk.paths.evaluate / "metrics.json",
               {"nelbo_nats": 1.0, "recon_nats": 0.5, "kl_nats": 0.5})  # fmt: skip
    record_stages(desk.paths, desk.space, "evaluate", "render")
    history.check()
