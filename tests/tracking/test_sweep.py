"""A sweep in MLflow: only what moved is read and sent; a lost store comes back equal."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from records import Store, copy_db
from sweeps import CHOSEN, Desk, curve

from pipeline.errors import UserError
from pipeline.lag import lag_line
from pipeline.records import Sweep
from pipeline.results import Outputs
from pipeline.system import Sampler, parse_gpus, system_metrics
from pipeline.tracking.mirror import Mirror
from pipeline.tracking.store import store_of
from pipeline.where import where_text


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def store(desk: Desk, empty_db: Path) -> Store:
    """The store of the desk's checkout, still empty."""
    copy_db(empty_db, desk.paths.mlflow_db)
    uri, artifacts, cursor = store_of(desk.machine, desk.paths)
    return Store(uri, artifacts, cursor, "tiny")


def live(desk: Desk, done: str = "prepare") -> Sweep:
    return Sweep(desk.space, desk.paths, desk.ledger, live=True, done=done)


def names(sweep: Sweep) -> list[str]:
    return [run.name for run in sweep.changes()]


def test_a_live_sweep_shows_only_the_trials_that_moved(desk: Desk) -> None:
    study = f"study {desk.study.id}"
    desk.complete(desk.study)
    sweep = live(desk)
    assert names(sweep) == [study, "trial 0000"]
    assert names(sweep) == []
    lease = desk.claim(desk.study)
    assert names(sweep) == [study, "trial 0001"]
    desk.ledger.report(lease, curve(1))
    assert names(sweep) == [study, "trial 0001"]
    desk.ledger.release("a/1/1", blameless=True)
    assert names(sweep) == [study, "trial 0001"]
    sweep.forget()
    assert names(sweep) == [study, "trial 0000", "trial 0001"]


def test_evaluated_metrics_are_shown_when_evaluate_has_ended(desk: Desk) -> None:
    desk.run_all_stages()
    sweep = live(desk, "retrain")
    (study, *_) = sweep.changes()
    assert "evaluate/metrics.json" not in study.artifacts
    sweep.done = "evaluate"
    (study, *_) = sweep.changes()
    assert {"nelbo_nats": 95.0, "seeds.count": 2.0}.items() <= {
        point.key: point.value for point in study.metrics
    }.items()
    assert "evaluate/metrics.json" in study.artifacts
    assert "report.html" not in study.artifacts


def test_what_another_study_left_behind_is_not_shown(desk: Desk) -> None:
    desk.run_all_stages()
    best = desk.paths.search / "best.json"
    best.write_text(best.read_text().replace(desk.study.id, "tiny-forked"))
    outputs = Outputs.read(desk.paths, "render")
    assert (outputs.winner, outputs.metrics) == (None, None)


def test_a_deleted_store_is_rebuilt_equal(desk: Desk, store: Store) -> None:
    sweep = live(desk)
    desk.run_all_stages()
    for done in ("prepare", "search", "retrain", "evaluate", "render"):  # as it grew
        sweep.done = done
        store.mirror().sync("tiny", sweep.changes())
    whole = Sweep(desk.space, desk.paths, desk.ledger)
    store.mirror().sync("tiny", whole.changes())
    before = store.dump()

    shutil.rmtree(desk.paths.mlflow_artifacts)  # the cursor knows nothing of it
    whole.forget()
    mirror = store.mirror()
    mirror.forget("tiny")
    mirror.sync("tiny", whole.changes())
    assert store.dump() == before

    shutil.rmtree(desk.paths.mlflow_artifacts)
    desk.paths.mlflow_db.unlink()
    whole.forget()
    mirror = store.mirror()
    mirror.forget("tiny")
    assert mirror.sync("tiny", whole.changes()).created == 5
    assert Store(store.uri, store.root, store.cursor, "tiny").dump() == before


def test_a_rebuild_brings_back_what_was_deleted_in_mlflow(desk: Desk, store: Store) -> None:
    desk.complete(desk.study)
    sweep = Sweep(desk.space, desk.paths, desk.ledger)
    report = store.mirror().sync("tiny", sweep.changes())
    before = store.dump()
    store.client.delete_run(report.run_ids[next(iter(sweep.marks()))])
    store.client.delete_experiment(store.experiment_id)
    mirror = store.mirror()
    mirror.forget("tiny")
    sweep.forget()
    mirror.sync("tiny", sweep.changes())
    assert store.dump() == before


def test_the_lag_counts_runs_and_epochs_that_were_not_sent(desk: Desk, store: Store) -> None:
    desk.complete(desk.study)
    lease = desk.claim(desk.study)

    def lag() -> str:
        return lag_line(desk.root, desk.space, desk.machine, desk.ledger)

    assert "lacks 3 epochs, 2 of 2 runs" in lag()
    store.mirror().sync("tiny", live(desk).changes())
    assert lag() == "MLflow has all 2 runs of tiny"
    desk.ledger.report(lease, curve(2))
    assert "lacks 2 epochs, 1 of 2 runs" in lag()


def test_where_names_what_made_a_run_and_how_to_have_it_again(desk: Desk, store: Store) -> None:
    desk.run_all_stages()
    sweep = Sweep(desk.space, desk.paths, desk.ledger)
    ids = Mirror(*store_of(desk.machine, desk.paths)).sync("tiny", sweep.changes()).run_ids
    trial = where_text(desk.root, desk.machine, ids[f"{sweep.key(desk.study.id)}/00001"])
    for expected in ("c0ffee, nothing uncommitted", desk.study.id, "d" * 64, "digest 10c4, not as",
                     "git checkout c0ffee", "python -m pipeline reproduce tiny 1"):  # fmt: skip
        assert expected in trial
    candidate = where_text(desk.root, desk.machine, ids[f"{sweep.key(desk.candidate.id)}/00000"])
    assert "dvc repro render@tiny" in candidate
    assert "c0ffee" in where_text(desk.root, desk.machine, ids[sweep.key(desk.study.id)])


def test_an_unknown_run_is_one_line(desk: Desk, store: Store) -> None:
    with pytest.raises(UserError, match="has no run 12ab: copy"):
        where_text(desk.root, desk.machine, "12ab")


def test_the_page_of_a_study_says_what_won_and_how_to_repeat_it(desk: Desk) -> None:
    desk.run_all_stages()
    (study, *_) = Sweep(desk.space, desk.paths, desk.ledger).changes()
    for name, value in CHOSEN.items():
        assert f"| {name} | {value} |" in study.description
    assert "python -m pipeline reproduce tiny 1" in study.description
    assert study.dataset
    assert (study.dataset.digest, study.dataset.name) == ("d" * 12, "digits")


def test_system_metrics_belong_to_the_study_at_work(desk: Desk) -> None:
    sweep = live(desk)
    desk.complete(desk.study)
    sweep.changes()
    assert sweep.active is None
    desk.claim(desk.study)
    sweep.changes()
    assert sweep.active == desk.study.id
    for each in (desk.study.id, "tiny-another"):
        Sampler(sweep.samples).sample(each)
    with sweep.samples.open("a") as file:
        file.write('{"study": "ti')  # the mirror was killed here
    (point, *others) = system_metrics(sweep.samples, desk.study.id)
    assert {point.step, *(other.step for other in others)} == {0}
    assert point.key == "system/cpu_utilization_percentage"
    for _ in range(2):  # the next mirror's first sample is lost with the torn one
        Sampler(sweep.samples).sample(desk.study.id)
    steps = [metric.step for metric in system_metrics(sweep.samples, desk.study.id)]
    assert set(steps) == {0, 1}
    sweep.forget()
    assert point in sweep.changes()[0].metrics


def test_figures_that_a_gpu_does_not_have_are_left_out() -> None:
    assert parse_gpus("97, 81559, 512.30\n[N/A], 20480, [N/A]\n") == {
        "gpu_0_utilization_percentage": 97.0,
        "gpu_0_memory_usage_megabytes": 81559.0,
        "gpu_0_power_usage_watts": 512.3,
        "gpu_1_memory_usage_megabytes": 20480.0,
    }
