"""The mirror: each record once in MLflow, whatever was interrupted, lost or repeated."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from records import START, Store, copy_db, curve, study, trial

from pipeline.tracking.mirror import KEY_TAG, Mirror, Report
from pipeline.tracking.records import Dataset, Metric
from pipeline.tracking.store import MirrorUnavailable


def test_runs_arrive_as_recorded(store: Store, tmp_path: Path) -> None:
    weights, figures = tmp_path / "w.bin", tmp_path / "figures"
    weights.write_bytes(b"weights")
    (figures / "deep").mkdir(parents=True)
    (figures / "deep" / "a.png").write_bytes(b"a")
    files = {"model/model.safetensors": weights, "figures": figures}

    report = store.mirror().sync(store.name, [study(), trial(7, artifacts=files)])

    assert (report.created, report.metrics, report.artifacts) == (2, 6, 2)
    held = store.dump()
    assert held["fashion-1a2b"]["info"] == ("study", "RUNNING", START, None)
    assert held["fashion-1a2b"]["tags"]["mlflow.note.content"] == "A **study**"
    dataset = held["fashion-1a2b"]["datasets"][0]
    assert (dataset["_name"], dataset["_digest"]) == ("fashion-mnist", "d" * 36)
    assert (dataset["_schema"], dataset["_profile"]) == ('{"a": 1}', '{"n": 2}')
    assert dataset["_source"] == '{"uri": "the package"}'
    one = held["fashion-1a2b/7"]
    assert one["info"] == ("trial 0007", "FINISHED", START + 7, START + 60_007)
    assert one["parent"] == "fashion-1a2b"
    assert one["params"] == {"lr": "0.001", "hidden": "[512, 256]"}
    assert one["tags"]["seed"] == "7"
    assert one["metrics"]["nelbo_nats"] == [
        (e, START + 1000 * e, 250 - e / 3) for e in (1, 2, 3)
    ]  # bit for bit
    assert one["artifacts"] == {
        "model/model.safetensors": hashlib.sha256(b"weights").hexdigest(),
        "figures/deep/a.png": hashlib.sha256(b"a").hexdigest(),
    }


def test_a_second_sync_sends_nothing_not_even_a_request_to_write(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [study(), *(trial(n) for n in range(3))]
    first = store.mirror().sync(store.name, runs)
    before = store.dump()
    from mlflow.tracking import MlflowClient

    for name in ("create_run", "log_batch", "log_inputs", "set_terminated", "update_run"):
        monkeypatch.setattr(MlflowClient, name, None)
    again = store.mirror().sync(store.name, runs)

    assert again == Report(0, 0, 0, first.run_ids)
    assert store.dump() == before


def test_a_lost_cursor_duplicates_nothing(store: Store, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"f")
    runs = [study(), *(trial(n, artifacts={"f": tmp_path / "f"}) for n in range(3))]
    first = store.mirror().sync(store.name, runs)
    before = store.dump()
    store.cursor.unlink()

    again = store.mirror().sync(store.name, runs)

    assert (again.created, again.run_ids) == (0, first.run_ids)
    assert store.dump() == before


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": {"experiment_id": "1"}}'])
def test_an_unreadable_cursor_is_rebuilt(store: Store, content: str) -> None:
    store.mirror().sync(store.name, [study()])
    store.cursor.write_text(content)
    assert store.mirror().sync(store.name, [study()]).created == 0


@pytest.mark.parametrize("call", ["create_run", "log_batch", "log_inputs", "set_terminated"])
@pytest.mark.parametrize("arrives", [True, False])
def test_a_call_that_fails_before_or_after_it_took_effect(
    store: Store, monkeypatch: pytest.MonkeyPatch, call: str, arrives: bool
) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    real = getattr(MlflowClient, call)

    def failing(*args: Any, **kwargs: Any) -> None:
        if arrives:
            real(*args, **kwargs)
        raise MlflowException("the reply was lost")

    runs = [study(status="FINISHED", end_ms=START + 9, metrics=curve(2)), trial(0)]
    mirror = store.mirror()
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, call, failing)
        with pytest.raises(MirrorUnavailable, match="the reply was lost"):
            mirror.sync(store.name, runs)
    mirror.sync(store.name, runs)

    held = store.dump()
    store.name += "-undisturbed"
    mirror.sync(store.name, runs)
    assert held == store.dump()


def test_a_live_run_grows_and_ends_once(store: Store) -> None:
    mirror = store.mirror()
    for epochs in (0, 1, 4):
        live = trial(0, status="RUNNING", end_ms=None, metrics=curve(epochs))
        mirror.sync(store.name, [study(), live])
        run = store.dump()["fashion-1a2b/0"]
        assert run["info"][1:] == ("RUNNING", START, None)
        assert len(run["metrics"].get("nelbo_nats", [])) == epochs
    report = mirror.sync(store.name, [study(), trial(0, metrics=curve(5))])
    assert report.metrics == 1
    assert store.dump()["fashion-1a2b/0"]["info"][1] == "FINISHED"


def test_points_inserted_before_the_last_one_arrive_too(store: Store) -> None:
    mirror = store.mirror()
    live = trial(0, status="RUNNING", end_ms=None)
    by_key = sorted(live.metrics, key=lambda m: (m.key, m.step))
    mirror.sync(store.name, [study(), replace(live, metrics=by_key)])
    more = sorted(by_key + curve(5)[3:], key=lambda m: (m.key, m.step))
    mirror.sync(store.name, [study(), replace(live, metrics=more)])
    metrics = store.dump()["fashion-1a2b/0"]["metrics"]
    assert {key: [step for step, *_ in points] for key, points in metrics.items()} == {
        "nelbo_nats": [1, 2, 3, 4, 5],
        "kl_nats": [1, 2, 3],
    }


def test_an_extended_study_runs_again(store: Store) -> None:
    mirror = store.mirror()
    mirror.sync(store.name, [study(status="FINISHED", end_ms=START + 5)])
    mirror.sync(store.name, [study(name="study of 40")])
    assert store.dump()["fashion-1a2b"]["info"][:2] == ("study of 40", "RUNNING")
    store.cursor.unlink()
    mirror.sync(store.name, [study(status="KILLED", end_ms=START + 9)])
    assert store.dump()["fashion-1a2b"]["info"] == ("study", "KILLED", START, START + 9)


def test_more_than_a_batch_and_longer_than_a_value(store: Store) -> None:
    params = {f"p{i}": "é" * 7000 for i in range(130)}
    tags = {f"t{i}": "é" * 9000 for i in range(110)}
    store.mirror().sync(store.name, [study(params=params, tags=tags, metrics=curve(2500))])
    run = store.dump()["fashion-1a2b"]
    assert len(run["metrics"]["nelbo_nats"]) == 2500
    assert set(run["params"].values()) == {"é" * 5999 + "…"}
    assert {run["tags"][key] for key in tags} == {"é" * 7999 + "…"}


def test_values_that_are_not_finite_become_a_tag_not_a_point(store: Store) -> None:
    bad = [Metric("nelbo_nats", value, 9, START) for value in (math.nan, math.inf)]
    store.mirror().sync(store.name, [study(metrics=[*curve(2), *bad])])
    run = store.dump()["fashion-1a2b"]
    assert [step for step, *_ in run["metrics"]["nelbo_nats"]] == [1, 2]
    assert run["tags"]["vae_pipeline.nonfinite"] == (
        "nelbo_nats = nan at step 9, nelbo_nats = inf at step 9"
    )


def test_a_changed_param_stays_and_is_shown_as_a_tag(store: Store) -> None:
    mirror = store.mirror()
    mirror.sync(store.name, [study(params={"a": "1", "b": "1"})])
    for _ in range(2):
        mirror.sync(store.name, [study(params={"a": "1", "b": "2", "c": "3"})])
        store.cursor.unlink()
    run = store.dump()["fashion-1a2b"]
    assert run["params"] == {"a": "1", "b": "1", "c": "3"}
    assert run["tags"]["vae_pipeline.changed_param.b"] == "2"


def test_a_changed_artifact_replaces_the_old_one(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "table"
    for content, uploads in ((b"1", 1), (b"1", 0), (b"22", 1)):
        file.write_bytes(content)
        report = store.mirror().sync(store.name, [study(artifacts={"tables/t.csv": file})])
        assert report.artifacts == uploads
    held = store.dump()["fashion-1a2b"]["artifacts"]
    assert held == {"tables/t.csv": hashlib.sha256(b"22").hexdigest()}


def test_an_empty_store_at_the_same_address_is_filled_again(empty_db: Path, tmp_path: Path) -> None:
    """A live mirror sees that its store was deleted, though the new experiment has the old id."""
    (tmp_path / "f").write_bytes(b"f")
    runs = [study(), *(trial(n, artifacts={"f": tmp_path / "f"}) for n in range(3))]
    db = tmp_path / "mlflow.db"
    copy_db(empty_db, db)
    store = Store(f"sqlite:///{db}", tmp_path / "artifacts", tmp_path / "cursor.json")
    mirror = store.mirror()
    mirror.sync(store.name, runs)
    before = store.dump()
    db.unlink()  # its write-ahead log stays

    assert mirror.sync(store.name, runs).created == 4
    assert store.dump() == before
    assert mirror.sync(store.name, runs).created == 0


def test_a_deleted_run_stays_deleted_and_the_others_go_on(store: Store) -> None:
    runs = [study(), trial(0), trial(1)]
    ids = store.mirror().sync(store.name, runs).run_ids
    store.client.delete_run(ids["fashion-1a2b/0"])
    runs[1] = trial(0, epochs=5)
    runs.append(trial(2))
    for _ in range(2):
        store.mirror().sync(store.name, runs)
        store.cursor.unlink()
    assert store.dump().keys() == {"fashion-1a2b", "fashion-1a2b/1", "fashion-1a2b/2"}


def test_a_run_deleted_under_a_live_mirror_is_left_alone(store: Store) -> None:
    mirror = store.mirror()
    live = trial(0, status="RUNNING", end_ms=None, metrics=curve(1))
    ids = mirror.sync(store.name, [study(), live]).run_ids
    store.client.delete_run(ids["fashion-1a2b/0"])
    mirror.sync(store.name, [study(), replace(live, metrics=curve(2)), trial(1)])
    assert store.dump().keys() == {"fashion-1a2b", "fashion-1a2b/1"}


def test_a_run_created_by_two_hosts_is_merged(store: Store) -> None:
    runs = [study(), trial(0)]
    store.mirror().sync(store.name, runs)
    before = store.dump()
    store.client.create_run(store.experiment_id, START, {KEY_TAG: "fashion-1a2b/0"}, "trial 0000")
    for _ in range(2):
        store.mirror().sync(store.name, runs)
        assert store.dump() == before


@pytest.mark.parametrize("call", ["log_batch", "log_inputs", "set_terminated"])
def test_a_run_that_another_host_merges_under_us_is_looked_up_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    from mlflow.tracking import MlflowClient

    runs = [study(status="FINISHED", end_ms=START + 9), trial(0)]
    real = getattr(MlflowClient, call)

    def met(client: Any, run_id: str, *args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr(MlflowClient, call, real)
        tags = client.get_run(run_id).data.tags
        other = run_id
        while other >= run_id:  # everyone keeps the smallest id
            other = client.create_run(store.experiment_id, START, tags).info.run_id
        Mirror(store.uri, store.root, store.cursor.with_name("other.json")).sync(store.name, runs)
        real(client, run_id, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, call, met)
    report = store.mirror().sync(store.name, runs)
    held = store.dump()
    assert set(report.run_ids.values()) == {
        run.info.run_id for run in store.client.search_runs([store.experiment_id])
    }
    store.name += "-undisturbed"
    store.mirror().sync(store.name, runs)
    assert held == store.dump()


def test_two_hosts_that_drop_one_run_at_once_do_it_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    runs = [study(), trial(0)]
    store.mirror().sync(store.name, runs)
    before = store.dump()
    store.client.create_run(store.experiment_id, START, {KEY_TAG: "fashion-1a2b/0"}, "trial 0000")
    real = MlflowClient.set_tag

    def second(client: Any, run_id: str, *args: Any, **kwargs: Any) -> None:
        real(client, run_id, *args, **kwargs)
        client.delete_run(run_id)
        real(client, run_id, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "set_tag", second)
    store.mirror().sync(store.name, runs)
    assert store.dump() == before


def test_a_deleted_experiment_and_a_moved_folder_say_what_to_do(
    store: Store, tmp_path: Path
) -> None:
    store.mirror().sync(store.name, [study()])
    store.root = tmp_path / "elsewhere"
    with pytest.raises(MirrorUnavailable, match="delete the store"):
        store.mirror().sync(store.name, [study()])
    store.root = tmp_path / "artifacts"
    store.client.delete_experiment(store.experiment_id)
    with pytest.raises(MirrorUnavailable, match="mlflow experiments restore --experiment-id"):
        store.mirror().sync(store.name, [study()])


def test_artifact_folders_may_have_any_name(store: Store, tmp_path: Path) -> None:
    store.root = tmp_path / "a #1 50%"
    (tmp_path / "f").write_bytes(b"f")
    store.mirror().sync(store.name, [study(artifacts={"f": tmp_path / "f"})])
    assert len(store.dump()["fashion-1a2b"]["artifacts"]) == 1
    assert (store.root / store.name).is_dir()


def test_a_sync_waits_for_another_one_but_not_for_ever(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.tracking.mirror.LOCK_SECONDS", 0.1)
    with (
        FileLock(f"{store.cursor}.lock"),
        pytest.raises(MirrorUnavailable, match="another process is sending"),
    ):
        store.mirror().sync(store.name, [study()])
    assert store.mirror().sync(store.name, [study()]).created == 1


def test_a_child_needs_its_parent(store: Store) -> None:
    with pytest.raises(ValueError, match="before its parent fashion-1a2b"):
        store.mirror().sync(store.name, [trial(0)])


def test_passwords_do_not_reach_the_store(store: Store) -> None:
    url = "postgresql://me:secret@db/ledger"
    secrets = study(params={"p": url}, tags={"t": url}, description=url)
    store.mirror().sync(store.name, [replace(secrets, dataset=Dataset("d", "1", url))])
    held = str(store.dump())
    assert "***@db/ledger" in held
    assert "secret" not in held
