"""Records to mirror, and a store with all that it holds in comparable form."""

from __future__ import annotations

import hashlib
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from pipeline.tracking.mirror import KEY_TAG, Mirror
from pipeline.tracking.records import Dataset, Metric, Run
from pipeline.tracking.store import connect

START = 1_700_000_000_000


def copy_db(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


def more_rows(db: Path, table: str, count: int) -> bool:
    with closing(sqlite3.connect(db, timeout=30)) as connection:
        found = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    return bool(found[0] > count)


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
    """One experiment of a store, and all that it holds in comparable form."""

    def __init__(self, uri: str, root: Path | None, cursor: Path, name: str = "fashion") -> None:
        self.uri = uri
        self.root = root
        self.cursor = cursor
        self.name = name
        self.client = connect(uri)

    def mirror(self) -> Mirror:
        return Mirror(self.uri, self.root, self.cursor)

    @property
    def experiment_id(self) -> str:
        found = self.client.get_experiment_by_name(self.name)
        assert found is not None
        return found.experiment_id

    def dump(self, *, artifacts: bool = True) -> dict[str, Any]:
        """What MLflow shows of every run, by the key of its record."""
        runs = list(self.client.search_runs([self.experiment_id]))
        keys = {run.info.run_id: run.data.tags[KEY_TAG] for run in runs}
        assert len(set(keys.values())) == len(keys), "a record has two runs"
        return {keys[run.info.run_id]: self._content(run, keys, artifacts) for run in runs}

    def _content(self, run: Any, keys: dict[str, str], artifacts: bool) -> dict[str, Any]:
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
                key: sorted((m.step, m.timestamp, m.value) for m in points)
                for key in run.data.metrics
                for points in [self.client.get_metric_history(run_id, key)]
            },
            "artifacts": self._artifacts(run_id) if artifacts else {},
        }

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
