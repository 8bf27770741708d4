"""A sweep in MLflow: only what moved is read and sent; a lost store comes back equal."""

from __future__ import annotations

import base64
import io
import json
import shlex
import shutil
import subprocess
import zlib
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from recording import record_stages
from records import Store, copy_db
from studies import next_lease
from sweeps import CHOSEN, META, Desk, curve

from pipeline.commands.where import where_text
from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.study.storage.claim import Claimant, Lease, Plan
from pipeline.sync.lag import lag_line
from pipeline.sync.mlflow_runs import Sweep
from pipeline.sync.outputs import Outputs
from pipeline.sync.system import Sampler, parse_gpus, samples_of
from pipeline.tracking.cursor import Sent
from pipeline.tracking.differences import differences
from pipeline.tracking.mirror import Mirror
from pipeline.tracking.records import Run
from pipeline.tracking.send import send_stream
from pipeline.tracking.store import store_of


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


def test_a_paused_trial_that_goes_on_is_one_run_that_grows(desk: Desk, store: Store) -> None:
    """At a rung it is finished and no failure; what it has come to stays while it goes on."""
    sweep, mirror = live(desk), store.mirror()

    def shown() -> tuple[str, str, list[int], list[float]]:
        mirror.sync("tiny", sweep.changes())
        (run,) = store.client.search_runs([store.experiment_id], "tags.kind = 'trial'")
        points = store.client.get_metric_history(run.info.run_id, "nelbo_nats")
        best = store.client.get_metric_history(run.info.run_id, "best_nelbo_nats")
        return (run.info.status, run.data.tags["state"], sorted(p.step for p in points),
                [p.value for p in best])  # fmt: skip

    def study_best() -> float:
        (run,) = store.client.search_runs([store.experiment_id], "tags.kind = 'study'")
        return float(run.data.metrics["search_best_nelbo_nats"])

    lease = begin_part(desk, 0, None)
    desk.ledger.report(lease, curve(1))
    assert shown() == ("RUNNING", "running", [1], [])
    desk.ledger.finish(lease, "paused", curve(1), {"nelbo_nats": 99.0, "best_epoch": 1})
    assert shown() == ("FINISHED", "paused", [1], [99.0])
    lease = begin_part(desk, 1, 1)
    assert shown() == ("RUNNING", "running", [1], [99.0])
    desk.ledger.report(lease, curve(2))
    assert shown() == ("RUNNING", "running", [1, 2], [99.0])
    assert study_best() == 99.0
    desk.ledger.release("a/1/1", blameless=True)
    assert shown()[:3] == ("KILLED", "interrupted", [1, 2])
    lease = begin_again(desk, 1)
    assert lease.curve == curve(2)
    store.cursor.unlink()  # and what was sent must be asked of MLflow
    sweep.forget()
    mirror = store.mirror()
    desk.ledger.finish(lease, "complete", curve(3), {"nelbo_nats": 97.0, "best_epoch": 3})
    assert shown() == ("FINISHED", "complete", [1, 2, 3], [99.0, 97.0])
    assert study_best() == 97.0
    whole = Sweep(desk.space, desk.paths, desk.ledger)
    assert mirror.sync("tiny", whole.changes()).metrics == 0
    assert differences(store.uri, "tiny", whole_runs(desk), lambda run: None) == (set(), {})


def begin_part(desk: Desk, number: int, follows: int | None) -> Lease:
    """Of trial 0, from one rung to the next."""
    since = number
    plan = Plan(number, 0, since, since + 1 if number == 0 else 3, number, follows, 1, CHOSEN,
                curve(since), 0)  # fmt: skip
    lease = desk.ledger.begin(desk.study.id, plan, Claimant("a/1/1", META))
    assert lease
    return lease


def begin_again(desk: Desk, number: int) -> Lease:
    lease = desk.ledger.claim(desk.study.id, Claimant("a/1/1", META), budget=9, among=[number])
    assert lease
    return lease


def whole_runs(desk: Desk) -> list[Run]:
    return Sweep(desk.space, desk.paths, desk.ledger).changes()


def test_a_pruned_trial_is_no_failure(desk: Desk) -> None:
    """MLflow marks runs that were killed with a red cross."""
    desk.ledger.finish(desk.claim(desk.study), "pruned", curve(1), {"nelbo_nats": 99.0,
                                                                    "best_epoch": 1})  # fmt: skip
    _, run = live(desk).changes()
    assert (run.status, run.tags["state"]) == ("FINISHED", "pruned")


def test_evaluated_metrics_are_shown_when_evaluate_has_ended(desk: Desk) -> None:
    desk.run_all_stages()
    sweep = live(desk, "retrain")
    (study, *_) = sweep.changes()
    assert "evaluate/metrics.json" not in study.artifacts
    sweep.done = "evaluate"
    (study, *_) = sweep.changes()
    expected = {"validation_nelbo_nats": 96.5, "test_nelbo_nats": 95.0, "test_seeds.count": 2.0}
    stated = {point.key: point.value for point in study.figures}
    assert expected.items() <= stated.items()
    assert "nelbo_nats" not in stated
    assert "evaluate/metrics.json" in study.artifacts
    assert "report.html" not in study.artifacts


def test_what_another_study_left_behind_is_not_shown(desk: Desk) -> None:
    desk.run_all_stages()
    best = desk.paths.search / "best.json"
    best.write_text(best.read_text().replace(desk.study.id, "tiny-forked"))
    record_stages(desk.paths, desk.space, "search")
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
    store.mirror().sync("tiny", whole_runs(desk))
    assert lag() == "MLflow has all 2 runs of tiny's present settings"
    desk.ledger.report(lease, curve(2))
    assert "lacks 2 epochs, 1 of 2 runs" in lag()
    store.mirror().sync("tiny", live(desk).changes())  # and is killed, as the worker is
    assert "lacks 0 epochs, 2 of 3 runs" in lag()
    store.mirror().sync("tiny", whole_runs(desk))
    assert lag() == "MLflow has all 2 runs of tiny's present settings"
    desk.paths.mlflow_db.unlink()
    assert "lacks 5 epochs, 2 of 2 runs" in lag()


def test_a_mirror_that_died_with_its_workers_has_left_lag_and_nothing_false(
    desk: Desk, store: Store
) -> None:
    """MLflow says that a trial runs; the ledger, that nobody works on it."""
    desk.ledger.report(desk.claim(desk.study), curve(2))
    store.mirror().sync("tiny", live(desk).changes())
    runs = whole_runs(desk)
    behind, found = differences(store.uri, "tiny", runs, lambda run: None if run.mark else {})
    assert (behind, found) == ({run.key for run in runs}, {})


def test_what_passed_is_lag_as_long_as_it_does_not_look_better(desk: Desk, store: Store) -> None:
    """A trial that goes on from its rung, and a study that has found a better one."""
    lease = begin_part(desk, 0, None)
    desk.ledger.finish(lease, "paused", curve(1), {"nelbo_nats": 99.0, "best_epoch": 1})
    store.mirror().sync("tiny", live(desk).changes())
    lease = begin_part(desk, 1, 0)
    desk.ledger.finish(lease, "complete", curve(3), {"nelbo_nats": 97.0, "best_epoch": 3})
    runs = whole_runs(desk)
    assert differences(store.uri, "tiny", runs, lambda run: {}) == ({run.key for run in runs}, {})
    behind, found = differences(store.uri, "tiny", runs, lambda run: None)
    assert (behind, sum(map(len, found.values()))) == (set(), 5)


def test_where_a_checkout_was_moved_nobody_is_sent_to_a_sync_that_is_refused(
    desk: Desk, store: Store
) -> None:
    desk.complete(desk.study)
    away = Store(store.uri, desk.root / "earlier", store.cursor, "tiny")
    away.mirror().sync("tiny", live(desk).changes())

    def lag() -> str:
        return lag_line(desk.root, desk.space, desk.machine, desk.ledger)

    assert lag() == (
        f"MLflow keeps the files of tiny in {(desk.root / 'earlier' / 'tiny').as_uri()}, where this"
        f" checkout was: move it back, or move {desk.paths.mlflow_db} away and give `python -m"
        " pipeline sync`, which builds it anew"
    )
    desk.paths.mlflow_db.unlink()
    store.mirror().sync("tiny", whole_runs(desk))
    assert lag() == "MLflow has all 1 runs of tiny's present settings"


def test_the_lag_counts_an_evaluation_that_was_not_sent(desk: Desk, store: Store) -> None:
    desk.run_all_stages()
    whole = Sweep(desk.space, desk.paths, desk.ledger)
    assert whole.marks().keys() == {run.key for run in whole.changes()}
    whole.forget()
    store.mirror().sync("tiny", whole.changes())
    assert "MLflow has all 5 runs" in lag_line(desk.root, desk.space, desk.machine, desk.ledger)
    write_json(desk.paths.evaluate / "metrics.json", {"nelbo_nats": 94.0, "recon_nats": 84.0,
                                                      "kl_nats": 10.0})  # fmt: skip
    record_stages(desk.paths, desk.space, "evaluate", "render")
    assert "lacks 0 epochs, 1 of 5" in lag_line(desk.root, desk.space, desk.machine, desk.ledger)


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


def test_a_trial_names_its_origin_and_where_finds_it(desk: Desk, store: Store) -> None:
    """The text of the space and the changes are in the ledger once, and in no tag of MLflow."""
    source = {"space": "data: {name: digits}\n", "diff": packed(b"diff --git a/x b/x\n")}
    key = desk.ledger.keep_origin(desk.study.id, source)
    meta = {**META, "git_dirty": True, "source": key}
    for _ in range(2):
        lease = next_lease(desk.ledger, desk.study.id, owner="a", meta=meta)
        assert lease
        desk.ledger.finish(lease, "failed", curve(1), None, "a reason")
    sweep = Sweep(desk.space, desk.paths, desk.ledger)
    runs = sweep.changes()
    assert not any("source" in run.tags for run in runs)
    ids = Mirror(*store_of(desk.machine, desk.paths)).sync("tiny", runs).run_ids
    for run_id in ids.values():
        said = where_text(desk.root, desk.machine, run_id)
        assert "with uncommitted changes, kept with the run" in said
        saved = desk.paths.state / "origins" / run_id
        assert (saved / "tiny.yaml").read_text() == source["space"]
        assert (saved / "changes.patch").read_bytes() == b"diff --git a/x b/x\n"


def packed(diff: bytes) -> str:
    return base64.b64encode(zlib.compress(diff)).decode()


ARITHMETIC = {"device": "cpu", "torch": "2.15.0", "cpu": "AVX512", "threads": "1"}


@pytest.mark.parametrize("kind", ["study", "trial"])
def test_where_names_the_arithmetic_and_its_commands_can_be_typed(
    tmp_path: Path, empty_db: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    files = {"mine/größe.py": "a = 1\n", "b.py": "b = 1\n"}
    changes = {"space": "data: {name: digits}\n", "diff": packed(b"--- a\n"), "files": files}
    monkeypatch.setitem(META, "arithmetic", ARITHMETIC)
    desk = Desk(tmp_path / "méine sweeps")
    monkeypatch.setitem(META, "source", desk.ledger.keep_origin(desk.study.id, changes))
    copy_db(empty_db, desk.paths.mlflow_db)
    desk.run_all_stages()
    sweep = Sweep(desk.space, desk.paths, desk.ledger)
    ids = Mirror(*store_of(desk.machine, desk.paths)).sync("tiny", sweep.changes()).run_ids
    key = sweep.key(desk.study.id)
    text = where_text(desk.root, desk.machine, ids[key if kind == "study" else f"{key}/00001"])
    (made_on,) = (line for line in text.splitlines() if line.startswith("made on"))
    assert made_on.split(None, 3)[3] == "device cpu, torch 2.15.0, cpu AVX512, threads 1"
    typed = [shlex.split(line) for line in text.splitlines() if line.startswith("    git apply")]
    ((_, _, patch),) = typed
    assert Path(patch).exists()
    assert "own files   b.py, mine/größe.py: kept with the run" in text.splitlines()
    clone = tmp_path / "clone"
    (clone / "search_spaces").mkdir(parents=True)
    for line in text.splitlines():
        if line.startswith("    cp "):
            subprocess.run(shlex.split(line), cwd=clone, check=True)
    assert {name: (clone / name).read_text() for name in files} == files
    assert (clone / "search_spaces" / "tiny.yaml").read_text() == changes["space"]


def test_no_file_of_a_run_is_written_outside_of_its_folder(desk: Desk, store: Store) -> None:
    key = desk.ledger.keep_origin(desk.study.id, {"files": {"a/../../../../b.py": "b = 1\n"}})
    lease = next_lease(desk.ledger, desk.study.id, owner="a", meta={**META, "source": key})
    assert lease
    desk.ledger.finish(lease, "failed", curve(1), None, "a reason")
    runs = Sweep(desk.space, desk.paths, desk.ledger).changes()
    ids = Mirror(*store_of(desk.machine, desk.paths)).sync("tiny", runs).run_ids
    with pytest.raises(UserError, match="is no file of a checkout"):
        where_text(desk.root, desk.machine, list(ids.values())[-1])
    assert not list(desk.root.rglob("b.py"))


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
    read = samples_of(sweep.samples, desk.study.id)
    (point, *others), position = read(None)
    assert {point.step, *(other.step for other in others)} == {0}
    assert point.key == "system/cpu_utilization_percentage"
    for _ in range(2):  # the next mirror's first sample is lost with the torn one
        Sampler(sweep.samples).sample(desk.study.id)
    points, end = read(position)
    assert {metric.step for metric in points} == {1}
    assert read(end) == ([], end)
    sweep.forget()
    stream = sweep.changes()[0].stream
    assert stream
    assert point in stream(None)[0]
    sweep.samples.rename(sweep.samples.with_suffix(".old"))  # the state was moved away
    assert read(end) == ([], end)
    Sampler(sweep.samples).sample(desk.study.id)
    assert {metric.step for metric in read(end)[0]} == {2}


class Counted(io.FileIO):
    """An open file that counts what is read of it."""

    bytes_read = 0

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size) or b""
        Counted.bytes_read += len(found)
        return found


def test_a_look_after_four_days_reads_what_is_new(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the runs nothing, of the system metrics what was not sent."""
    sweep, client = live(desk), MagicMock()
    desk.claim(desk.study)
    sweep.samples.parent.mkdir(parents=True)
    record = {"study": desk.study.id, "at_ms": 1, "values": {"cpu": 1.0}}
    line = f"{json.dumps(record)}\n"
    sweep.samples.write_text(4 * 8640 * line)
    (study, _), sent = sweep.changes(), Sent("run")
    monkeypatch.setattr(Counted, "bytes_read", 0)
    usual = Path.open

    def opened(path: Path, *how: Any, **more: Any) -> Any:
        counted = path == sweep.samples and how == ("rb",)
        return Counted(path, "r") if counted else usual(path, *how, **more)

    monkeypatch.setattr(Path, "open", opened)
    assert send_stream(client, study, sent) == 4 * 8640
    assert Counted.bytes_read < 1.01 * 4 * 8640 * len(line)  # and the torn ends of chunks
    for new in (0, 3):
        with sweep.samples.open("a") as file:
            file.write(new * line)
        Counted.bytes_read = 0
        client.reset_mock()
        assert sweep.changes() == []
        assert send_stream(client, study, sent) == new
        assert Counted.bytes_read == new * len(line)
        assert len(client.method_calls) == (new > 0)


def test_figures_that_a_gpu_does_not_have_are_left_out() -> None:
    assert parse_gpus("97, 81559, 512.30\n[N/A], 20480, [N/A]\n") == {
        "gpu_0_utilization_percentage": 97.0,
        "gpu_0_memory_usage_megabytes": 81559.0,
        "gpu_0_power_usage_watts": 512.3,
        "gpu_1_memory_usage_megabytes": 20480.0,
    }
