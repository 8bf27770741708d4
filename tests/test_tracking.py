"""The mirror: each record once in MLflow, whatever was interrupted, lost or repeated."""

from __future__ import annotations

import hashlib
import math
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.paths import Paths
from pipeline.tracking.mirror import KEY_TAG, Mirror, Report
from pipeline.tracking.run import Dataset, Metric, Run
from pipeline.tracking.store import MirrorUnavailable, connect, mask, resolve, ui_command

# MLflow's own models use a loader strategy that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")

START = 1_700_000_000_000


def curve(epochs: int, key: str = "nelbo_nats") -> list[Metric]:
    return [Metric(key, 250 - e / 3, e, START + 1000 * e) for e in range(1, epochs + 1)]


def study(**changes: Any) -> Run:
    fields: dict[str, Any] = {
        "key": "fashion-1a2b",
        "name": "study",
        "parent": None,
        "status": "RUNNING",
        "start_ms": START,
        "end_ms": None,
        "description": "A **study**",
        "dataset": Dataset("fashion-mnist", "d" * 36, "the package", '{"a": 1}', '{"n": 2}'),
    }
    return Run(**{**fields, **changes})


def trial(number: int, epochs: int = 3, **changes: Any) -> Run:
    fields: dict[str, Any] = {
        "key": f"fashion-1a2b/{number}",
        "name": f"trial {number:04d}",
        "parent": "fashion-1a2b",
        "status": "FINISHED",
        "start_ms": START + number,
        "end_ms": START + 60_000 + number,
        "params": {"lr": "0.001", "hidden": "[512, 256]"},
        "metrics": curve(epochs) + curve(epochs, "kl_nats"),
        "tags": {"host": "a", "seed": str(number)},
    }
    return Run(**{**fields, **changes})


class Store:
    """A store, and all that it holds of an experiment in comparable form."""

    def __init__(self, folder: Path, uri: str | None = None) -> None:
        self.folder = folder
        self.uri = uri or f"sqlite:///{folder / 'mlflow.db'}"
        self.root = None if uri else folder / "artifacts"
        self.cursor = folder / "cursor.json"
        self.client = connect(self.uri)

    def mirror(self) -> Mirror:
        return Mirror(self.uri, self.root, self.cursor)

    def runs(self, experiment: str) -> list[Any]:
        found = self.client.get_experiment_by_name(experiment)
        assert found is not None
        return list(self.client.search_runs([found.experiment_id]))

    def dump(self, experiment: str) -> dict[str, Any]:
        runs = self.runs(experiment)
        keys = {run.info.run_id: run.data.tags[KEY_TAG] for run in runs}
        assert len(set(keys.values())) == len(keys), "a record has two runs"
        return {keys[run.info.run_id]: self._content(run, keys) for run in runs}

    def _content(self, run: Any, keys: dict[str, str]) -> dict[str, Any]:
        tags = dict(run.data.tags)
        parent = tags.pop("mlflow.parentRunId", None)
        info, run_id = run.info, run.info.run_id
        return {
            "info": (info.run_name, info.status, info.start_time, info.end_time),
            "parent": parent and keys[parent],
            "params": run.data.params,
            "tags": tags,
            "datasets": [vars(each.dataset) for each in run.inputs.dataset_inputs],
            "metrics": {
                key: sorted((m.step, m.timestamp, m.value) for m in self._history(run_id, key))
                for key in run.data.metrics
            },
            "artifacts": self._artifacts(run_id),
        }

    def _history(self, run_id: str, key: str) -> list[Any]:
        return self.client.get_metric_history(run_id, key)

    def _artifacts(self, run_id: str, folder: str | None = None) -> dict[str, str]:
        files: dict[str, str] = {}
        for entry in self.client.list_artifacts(run_id, folder):
            if entry.is_dir:
                files |= self._artifacts(run_id, entry.path)
            else:
                with tempfile.TemporaryDirectory() as scratch:
                    local = Path(self.client.download_artifacts(run_id, entry.path, scratch))
                    files[entry.path] = hashlib.sha256(local.read_bytes()).hexdigest()
        return files


@pytest.fixture(scope="module")
def empty_db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without experiments; creating one takes seconds, copying does not."""
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    connect(f"sqlite:///{path}")
    return path


@pytest.fixture
def store(empty_db: Path, tmp_path: Path) -> Store:
    copy_db(empty_db, tmp_path / "mlflow.db")
    return Store(tmp_path)


def copy_db(source: Path, target: Path) -> None:
    with sqlite3.connect(source) as old, sqlite3.connect(target) as new:
        old.backup(new)


def test_runs_arrive_as_recorded(store: Store, tmp_path: Path) -> None:
    weights, figures = tmp_path / "w.bin", tmp_path / "figures"
    weights.write_bytes(b"weights")
    (figures / "deep").mkdir(parents=True)
    (figures / "deep" / "a.png").write_bytes(b"a")
    files = {"model/model.safetensors": weights, "figures": figures}

    report = store.mirror().sync("fashion", [study(), trial(7, artifacts=files)])

    assert (report.created, report.metrics, report.artifacts) == (2, 6, 2)
    held = store.dump("fashion")
    assert held["fashion-1a2b"]["info"] == ("study", "RUNNING", START, None)
    assert held["fashion-1a2b"]["tags"]["mlflow.note.content"] == "A **study**"
    dataset = held["fashion-1a2b"]["datasets"][0]
    assert (dataset["_name"], dataset["_digest"]) == ("fashion-mnist", "d" * 36)
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
    first = store.mirror().sync("fashion", runs)
    before = store.dump("fashion")
    from mlflow.tracking import MlflowClient

    for name in ("create_run", "log_batch", "log_inputs", "set_terminated", "update_run"):
        monkeypatch.setattr(MlflowClient, name, None)
    again = store.mirror().sync("fashion", runs)

    assert again == Report(0, 0, 0, first.run_ids)
    assert store.dump("fashion") == before


def test_a_lost_cursor_duplicates_nothing(store: Store, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"f")
    runs = [study(), *(trial(n, artifacts={"f": tmp_path / "f"}) for n in range(3))]
    first = store.mirror().sync("fashion", runs)
    before = store.dump("fashion")
    store.cursor.unlink()

    again = store.mirror().sync("fashion", runs)

    assert (again.created, again.run_ids) == (0, first.run_ids)
    assert store.dump("fashion") == before


@pytest.mark.parametrize("content", ["", "{", "[]", '{"fashion": {"experiment_id": "1"}}'])
def test_an_unreadable_cursor_is_rebuilt(store: Store, content: str) -> None:
    store.mirror().sync("fashion", [study()])
    store.cursor.write_text(content)
    assert store.mirror().sync("fashion", [study()]).created == 0


@pytest.mark.parametrize("call", ["create_run", "log_batch", "log_inputs", "set_terminated"])
@pytest.mark.parametrize("arrives", [True, False])
@pytest.mark.parametrize("same_object", [True, False])
def test_a_call_that_fails_before_or_after_it_took_effect(
    store: Store, monkeypatch: pytest.MonkeyPatch, call: str, arrives: bool, same_object: bool
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
            mirror.sync("fashion", runs)
    (mirror if same_object else store.mirror()).sync("fashion", runs)
    mirror.sync("other", runs)

    same = {key: {**run, "artifacts": {}} for key, run in store.dump("other").items()}
    assert store.dump("fashion") == same


def test_a_live_run_grows_and_ends_once(store: Store) -> None:
    mirror = store.mirror()
    for epochs in (0, 1, 4):
        live = trial(0, status="RUNNING", end_ms=None, metrics=curve(epochs))
        mirror.sync("fashion", [study(), live])
        run = store.dump("fashion")["fashion-1a2b/0"]
        assert run["info"][1:] == ("RUNNING", START, None)
        assert len(run["metrics"].get("nelbo_nats", [])) == epochs
    report = mirror.sync("fashion", [study(), trial(0, metrics=curve(5))])
    assert report.metrics == 1
    assert store.dump("fashion")["fashion-1a2b/0"]["info"][1] == "FINISHED"


def test_points_inserted_before_the_last_one_arrive_too(store: Store) -> None:
    mirror = store.mirror()
    live = trial(0, status="RUNNING", end_ms=None)
    by_key = sorted(live.metrics, key=lambda m: (m.key, m.step))
    mirror.sync("fashion", [study(), replace(live, metrics=by_key)])
    more = sorted(by_key + curve(5)[3:], key=lambda m: (m.key, m.step))
    mirror.sync("fashion", [study(), replace(live, metrics=more)])
    metrics = store.dump("fashion")["fashion-1a2b/0"]["metrics"]
    assert {key: [step for step, *_ in points] for key, points in metrics.items()} == {
        "nelbo_nats": [1, 2, 3, 4, 5],
        "kl_nats": [1, 2, 3],
    }


def test_an_extended_study_runs_again(store: Store) -> None:
    mirror = store.mirror()
    mirror.sync("fashion", [study(status="FINISHED", end_ms=START + 5)])
    mirror.sync("fashion", [study(name="study of 40")])
    assert store.dump("fashion")["fashion-1a2b"]["info"][:2] == ("study of 40", "RUNNING")
    store.cursor.unlink()
    mirror.sync("fashion", [study(status="KILLED", end_ms=START + 9)])
    assert store.dump("fashion")["fashion-1a2b"]["info"] == ("study", "KILLED", START, START + 9)


def test_more_than_a_batch_and_longer_than_a_value(store: Store) -> None:
    params = {f"p{i}": "é" * 7000 for i in range(130)}
    tags = {f"t{i}": "é" * 9000 for i in range(110)}
    store.mirror().sync("big", [study(params=params, tags=tags, metrics=curve(2500))])
    run = store.dump("big")["fashion-1a2b"]
    assert len(run["metrics"]["nelbo_nats"]) == 2500
    assert set(run["params"].values()) == {"é" * 5999 + "…"}
    assert {run["tags"][key] for key in tags} == {"é" * 7999 + "…"}


def test_values_that_are_not_finite_become_a_tag_not_a_point(store: Store) -> None:
    bad = [Metric("nelbo_nats", value, 9, START) for value in (math.nan, math.inf)]
    store.mirror().sync("fashion", [study(metrics=[*curve(2), *bad])])
    run = store.dump("fashion")["fashion-1a2b"]
    assert [step for step, *_ in run["metrics"]["nelbo_nats"]] == [1, 2]
    assert run["tags"]["vae_pipeline.nonfinite"] == (
        "nelbo_nats = nan at step 9, nelbo_nats = inf at step 9"
    )


def test_a_changed_param_stays_and_is_shown_as_a_tag(store: Store) -> None:
    mirror = store.mirror()
    mirror.sync("fashion", [study(params={"a": "1", "b": "1"})])
    for _ in range(2):
        mirror.sync("fashion", [study(params={"a": "1", "b": "2", "c": "3"})])
        store.cursor.unlink()
    run = store.dump("fashion")["fashion-1a2b"]
    assert run["params"] == {"a": "1", "b": "1", "c": "3"}
    assert run["tags"]["vae_pipeline.changed_param.b"] == "2"


def test_a_changed_artifact_replaces_the_old_one(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "table"
    for content, uploads in ((b"1", 1), (b"1", 0), (b"22", 1)):
        file.write_bytes(content)
        report = store.mirror().sync("fashion", [study(artifacts={"tables/t.csv": file})])
        assert report.artifacts == uploads
    held = store.dump("fashion")["fashion-1a2b"]["artifacts"]
    assert held == {"tables/t.csv": hashlib.sha256(b"22").hexdigest()}


def test_an_empty_store_at_the_same_address_is_filled_again(
    empty_db: Path, tmp_path: Path
) -> None:
    """The cursor speaks of the deleted store; the experiment even gets the same id."""
    (tmp_path / "f").write_bytes(b"f")
    runs = [study(), *(trial(n, artifacts={"f": tmp_path / "f"}) for n in range(3))]
    old, new = tmp_path / "old", tmp_path / "new"
    dumps = []
    for folder in (old, new):
        folder.mkdir()
        copy_db(empty_db, folder / "mlflow.db")
        fresh = Store(folder)
        fresh.cursor = tmp_path / "cursor.json"
        fresh.root = tmp_path / "artifacts"
        assert fresh.mirror().sync("fashion", runs).created == 4
        dumps.append(fresh.dump("fashion"))
        time.sleep(0.002)  # two experiments are told apart by the millisecond of their creation
    assert dumps[0] == dumps[1]


def test_a_deleted_run_stays_deleted_and_the_others_go_on(store: Store) -> None:
    runs = [study(), trial(0), trial(1)]
    ids = store.mirror().sync("fashion", runs).run_ids
    store.client.delete_run(ids["fashion-1a2b/0"])
    runs[1] = trial(0, epochs=5)
    runs.append(trial(2))
    for _ in range(2):
        store.mirror().sync("fashion", runs)
        store.cursor.unlink()
    assert store.dump("fashion").keys() == {"fashion-1a2b", "fashion-1a2b/1", "fashion-1a2b/2"}


def test_a_run_deleted_under_a_live_mirror_is_left_alone(store: Store) -> None:
    mirror = store.mirror()
    live = trial(0, status="RUNNING", end_ms=None, metrics=curve(1))
    ids = mirror.sync("fashion", [study(), live]).run_ids
    store.client.delete_run(ids["fashion-1a2b/0"])
    grown = replace(live, metrics=curve(2))
    with pytest.raises(MirrorUnavailable):
        mirror.sync("fashion", [study(), grown, trial(1)])
    mirror.sync("fashion", [study(), grown, trial(1)])
    assert store.dump("fashion").keys() == {"fashion-1a2b", "fashion-1a2b/1"}


def test_a_run_created_by_two_hosts_is_merged(store: Store) -> None:
    runs = [study(), trial(0)]
    store.mirror().sync("fashion", runs)
    before = store.dump("fashion")
    experiment = store.client.get_experiment_by_name("fashion").experiment_id
    store.client.create_run(experiment, START, {KEY_TAG: "fashion-1a2b/0"}, "trial 0000")
    for _ in range(2):
        store.mirror().sync("fashion", runs)
        assert store.dump("fashion") == before


def test_a_deleted_experiment_and_a_moved_folder_say_what_to_do(
    store: Store, tmp_path: Path
) -> None:
    store.mirror().sync("fashion", [study()])
    store.root = tmp_path / "elsewhere"
    with pytest.raises(MirrorUnavailable, match="delete the store"):
        store.mirror().sync("fashion", [study()])
    store.root = tmp_path / "artifacts"
    store.client.delete_experiment(store.client.get_experiment_by_name("fashion").experiment_id)
    with pytest.raises(MirrorUnavailable, match="mlflow experiments restore --experiment-id"):
        store.mirror().sync("fashion", [study()])


def test_artifact_folders_may_have_any_name(empty_db: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a #1 50%"
    folder.mkdir()
    copy_db(empty_db, folder / "mlflow.db")
    odd = Store(folder)
    (folder / "f").write_bytes(b"f")
    odd.mirror().sync("fashion", [study(artifacts={"f": folder / "f"})])
    assert len(odd.dump("fashion")["fashion-1a2b"]["artifacts"]) == 1
    assert (folder / "artifacts" / "fashion").is_dir()


def test_a_child_needs_its_parent(store: Store) -> None:
    with pytest.raises(ValueError, match="before its parent fashion-1a2b"):
        store.mirror().sync("fashion", [trial(0)])


def test_a_server_that_is_down_fails_at_once_and_keeps_the_password(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for uri in ("http://me:secret@127.0.0.1:1", "postgresql://me:secret@127.0.0.1:1/db"):
        began = time.monotonic()
        with pytest.raises(MirrorUnavailable, match=r"\*\*\*@127.0.0.1:1") as caught:
            Mirror(uri, None, tmp_path / "cursor.json").sync("fashion", [study()])
        assert time.monotonic() - began < 5
        assert "secret" not in str(caught.value)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_passwords_do_not_reach_the_store(store: Store) -> None:
    url = "postgresql://me:secret@db/ledger"
    secrets = study(params={"p": url}, tags={"t": url}, description=url)
    store.mirror().sync("fashion", [replace(secrets, dataset=Dataset("d", "1", url))])
    store.client.get_experiment_by_name("fashion")
    held = str(store.dump("fashion"))
    assert "***@db/ledger" in held
    assert "secret" not in held


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("at http://me:secret@host:5000/x?y=1 now", "at http://***@host:5000/x?y=1 now"),
        ("https://token@host", "https://***@host"),
        ("postgresql+psycopg://me:se/c@ret@db/x", "postgresql+psycopg://***@db/x"),
        ("postgresql://db/x?user=me&password=secret&a=b", "postgresql://db/x?user=me&password=***&a=b"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
        ("me@example.org", "me@example.org"),
    ],
)  # fmt: skip
def test_mask(text: str, masked: str) -> None:
    assert mask(text) == masked


def test_resolve(tmp_path: Path) -> None:
    paths = Paths(tmp_path, "fashion")
    local = tmp_path / "runs/state"
    artifacts = local / "mlflow-artifacts"
    assert resolve(None, paths) == (f"sqlite:///{local / 'mlflow.db'}", artifacts)
    assert resolve("sqlite:///my.db", paths) == (f"sqlite:///{tmp_path / 'my.db'}", artifacts)
    assert resolve("sqlite:////srv/my.db", paths) == ("sqlite:////srv/my.db", artifacts)
    assert resolve("http://host:5000", paths) == ("http://host:5000", None)
    assert resolve("postgresql://h/db", paths) == ("postgresql://h/db", artifacts)
    for bad in ("mlruns", "file:///mlruns", "ftp://me:secret@host", "sqlite://", "https"):
        with pytest.raises(UserError, match="must be an MLflow URI that starts with") as caught:
            resolve(bad, paths)
        assert "secret" not in str(caught.value)


def test_ui_command_binds_to_loopback_and_hides_the_uri(tmp_path: Path) -> None:
    paths = Paths(tmp_path, "fashion")
    argv, environment = ui_command(paths, "postgresql://me:secret@db/mlflow")
    assert argv[argv.index("--host") + 1] == "127.0.0.1"
    assert "secret" not in " ".join(argv)
    assert environment["MLFLOW_BACKEND_STORE_URI"] == "postgresql://me:secret@db/mlflow"
    with pytest.raises(UserError, match="serves its own pages"):
        ui_command(paths, "http://host:5000")


def test_records_refuse_what_mlflow_cannot_hold() -> None:
    with pytest.raises(ValueError, match="needs `end_ms`"):
        study(status="FINISHED")
    with pytest.raises(ValueError, match="key is letters"):
        study(key="it's")
    with pytest.raises(ValueError, match="at most 36 characters"):
        Dataset("d", "0" * 64, "here")


def test_importing_the_mirror_imports_nothing_heavy() -> None:
    code = (
        "import sys, pipeline.tracking.mirror, pipeline.tracking.registry\n"
        "heavy = {'mlflow', 'torch', 'sqlalchemy', 'pandas', 'scipy', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (answer.stdout, answer.stderr) == ("[]\n", "")
