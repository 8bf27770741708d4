"""Records -> MLflow runs, each exactly once, however often and wherever it was interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.tracking.cursor import NONE_SENT, Log, Sent, load_cursor, save_cursor
from pipeline.tracking.moved import came_along, take_along
from pipeline.tracking.records import Run
from pipeline.tracking.send import (
    announce,
    send_artifacts,
    send_dataset,
    send_status,
    send_stream,
    send_values,
)
from pipeline.tracking.store import MirrorUnavailable, Store, connect, mask, outages, pages
from pipeline.tracking.supersede import (
    GENERATION_TAG,
    SUPERSEDED_TAG,
    is_outdated,
    is_superseded,
    known_points,
    number,
)
from pipeline.tracking.views import View, send_views

if TYPE_CHECKING:
    from mlflow.entities import Experiment
    from mlflow.entities import Run as StoredRun
    from mlflow.tracking import MlflowClient

KEY_TAG = "vae_pipeline.key"
PAGE = 200  # runs of one search answer, which must arrive within the HTTP timeout
LOCK_SECONDS = 10
MEETINGS = 10  # with other hosts, at one run
MET = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")  # a run in the trash; a tag that was set just now
SAVE_SECONDS = 5.0  # of a long sync are lost at most when the process is killed
# Lists show such an experiment as machine learning; what its pages show, the address decides (ui).
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}


@dataclass
class Report:
    """What one sync sent, and the MLflow run of every record."""

    created: int = 0
    metrics: int = 0
    artifacts: int = 0
    run_ids: dict[str, str] = field(default_factory=dict)  # key -> MLflow's, unless it is deleted


class Mirror:
    """Keeps one MLflow store equal to the records, from one or several processes of a host.

    Nothing happens before the first `sync`, not even the import of MLflow.
    """

    def __init__(self, uri: str, artifact_root: Path | None, cursor: Path) -> None:
        """`artifact_root` is None where a server keeps the artifacts; `cursor` is a state file."""
        self._uri = uri
        self._artifact_root = artifact_root
        self._cursor = cursor
        self._verified: set[str] = set()  # experiments whose runs this object has looked up

    def sync(self, experiment: str, runs: Iterable[Run], views: Sequence[View] = ()) -> Report:
        """Sends what the store lacks of runs and views. Parents come before their children, now or
        earlier.

        `runs` need not hold the runs of earlier calls; those are kept. A run that somebody deleted
        in MLflow stays deleted. Raises MirrorUnavailable when the store fails; what was
        sent is remembered, and the next call goes on from there.
        """
        report = Report()
        client = connect(self._uri)
        with outages(self._uri), self._alone():
            logs = load_cursor(self._cursor)
            try:
                log = logs[experiment] = self._open(client, experiment, logs.get(experiment))
                saved = time.monotonic()
                for run in runs:
                    _mirror_beside_others(
                        client, log, run, report, lambda: save_cursor(self._cursor, logs)
                    )
                    if time.monotonic() - saved > SAVE_SECONDS:
                        save_cursor(self._cursor, logs)
                        saved = time.monotonic()
                if views:
                    send_views(client, log.experiment_id, views)
            except BaseException:
                self._verified.discard(experiment)  # a run may exist that we did not hear of
                raise
            finally:
                save_cursor(self._cursor, logs)
        return report

    def forget(self, experiment: str) -> None:
        """Makes the next `sync` send everything again, and undoes deletions made in MLflow.

        Raises MirrorUnavailable when the store fails.
        """
        client = connect(self._uri)
        with outages(self._uri), self._alone():
            logs = load_cursor(self._cursor)
            logs.pop(experiment, None)
            save_cursor(self._cursor, logs)
            self._verified.discard(experiment)
            _restore(client, experiment)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Holds the cursor's lock. Raises MirrorUnavailable if another process keeps it."""
        from filelock import FileLock, Timeout

        self._cursor.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{self._cursor}.lock")
        try:
            lock.acquire(timeout=LOCK_SECONDS)
        except Timeout:
            raise MirrorUnavailable("another process is sending to MLflow") from None
        try:
            yield
        finally:
            lock.release()

    def _open(self, client: MlflowClient, name: str, known: Log | None) -> Log:
        """What the store holds of the experiment, which is created if it is absent."""
        found = self._experiment(client, name)
        log = Log(found.experiment_id, found.creation_time or 0)
        if known and (known.experiment_id, known.created_ms) == (log.experiment_id, log.created_ms):
            log.runs = known.runs
        if name not in self._verified:
            log.runs = _reconciled(log.runs, _find(client, log.experiment_id))
            self._verified.add(name)
        return log

    def _experiment(self, client: MlflowClient, name: str) -> Experiment:
        location = (self._artifact_root / name).as_uri() if self._artifact_root else None
        found = _get_or_create(client, name, location)
        if found.lifecycle_stage != "active":
            raise MirrorUnavailable(
                f"the MLflow experiment {name} is deleted: bring it back with `mlflow experiments"
                f" restore --experiment-id {found.experiment_id}`"
            )
        store = Store(self._uri, self._artifact_root, self._cursor)
        if location and came_along(store, name, found.artifact_location):
            take_along(store, name, found.artifact_location)
            found = client.get_experiment(found.experiment_id)
        if location and found.artifact_location != location:
            raise MirrorUnavailable(
                f"the MLflow store at {mask(self._uri)} keeps the artifacts of {name} in"
                f" {found.artifact_location}, but they belong in {location}: delete the store (the"
                " next sync rebuilds it), or move the folder back"
            )
        return found


def _mirror_beside_others(
    client: MlflowClient, log: Log, run: Run, report: Report, save: Callable[[], None]
) -> None:
    """Other hosts mirror the same record: a run that went under us is looked up again."""
    from mlflow.exceptions import MlflowException

    for left in reversed(range(MEETINGS)):
        try:
            return _mirror(client, log, run, report, save)
        except MlflowException as error:
            if error.error_code not in MET or not left:
                raise
        log.runs |= _reconciled(log.runs, _find(client, log.experiment_id, run.key))


def _mirror(
    client: MlflowClient, log: Log, run: Run, report: Report, save: Callable[[], None]
) -> None:
    if run.parent is not None and run.parent not in log.runs:
        raise ValueError(f"run {run.key} comes before its parent {run.parent}")
    if run.key not in log.runs:
        log.runs.update(_find(client, log.experiment_id, run.key))
    if run.key not in log.runs:
        _create(client, log, run, report, generation=0)
    sent = log.runs[run.key]
    if not sent.deleted:
        report.run_ids[run.key] = sent.run_id
    if _has_other_points(client, run, sent):
        if is_outdated(client, run, sent):
            return
        sent = _replace(client, log, run, report)
        report.run_ids[run.key] = sent.run_id
    if not sent.deleted:
        if announce(run, sent):
            save()  # before it is sent: we may be killed right after
        parent_id = log.runs[run.parent].run_id if run.parent is not None else None
        report.metrics += send_values(client, run, sent, parent_id)
        report.metrics += send_stream(client, run, sent)
        send_dataset(client, run, sent)
        report.artifacts += send_artifacts(client, run, sent)
        send_status(client, run, sent)
    sent.mark = run.mark


def _has_other_points(client: MlflowClient, run: Run, sent: Sent) -> bool:
    if sent.deleted or sent.fresh or known_points(run, sent) is not None:
        return False
    return is_superseded(client, run, sent)


def _create(client: MlflowClient, log: Log, run: Run, report: Report, generation: int) -> Sent:
    """The tags come with the run, so no run ever exists without its identity."""
    tags = {KEY_TAG: run.key} | ({GENERATION_TAG: str(generation)} if generation else {})
    created = client.create_run(log.experiment_id, run.start_ms, tags, run.name)
    sent = log.runs[run.key] = Sent(created.info.run_id, params=NONE_SENT, generation=generation)
    report.created += 1
    return sent


def _replace(client: MlflowClient, log: Log, run: Run, report: Report) -> Sent:
    """Another run for the key; if we die between the two, the next look drops the old one."""
    old = log.runs[run.key]
    new = _create(client, log, run, report, old.generation + 1)
    _drop(client, old, new)
    return new


def _drop(client: MlflowClient, old: Sent, new: Sent) -> None:
    """To MLflow's trash, where another host may be bringing it at this moment."""
    from mlflow.exceptions import MlflowException

    try:
        client.set_tag(old.run_id, SUPERSEDED_TAG, new.run_id)
    except MlflowException as error:
        if error.error_code not in MET:
            raise
    client.delete_run(old.run_id)


def _get_or_create(client: MlflowClient, name: str, location: str | None) -> Experiment:
    from mlflow.exceptions import MlflowException

    if found := client.get_experiment_by_name(name):
        return found
    try:
        return client.get_experiment(client.create_experiment(name, location, EXPERIMENT_TAGS))
    except MlflowException as error:
        found = client.get_experiment_by_name(name)  # another host was faster
        if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
            raise
        return found


def _restore(client: MlflowClient, name: str) -> None:
    """Brings back the experiment and its runs from MLflow's trash."""
    found = client.get_experiment_by_name(name)
    if found is None:
        return
    if found.lifecycle_stage != "active":
        client.restore_experiment(found.experiment_id)
    for sent in _find(client, found.experiment_id).values():
        if sent.deleted:
            client.restore_run(sent.run_id)


def _find(client: MlflowClient, experiment_id: str, key: str | None = None) -> dict[str, Sent]:
    """Our runs in the store by key, all or one, deleted ones too.

    Two hosts, or a server that answered too late, can have created a run twice: everyone keeps
    the one with the smallest id, of the highest generation, and deletes the others.
    """
    from mlflow.entities import ViewType

    condition = f"tags.`{KEY_TAG}` LIKE '%'" if key is None else f"tags.`{KEY_TAG}` = '{key}'"
    found: dict[str, Sent] = {}
    search = partial(client.search_runs, [experiment_id], condition, ViewType.ALL, PAGE, None)
    for run in pages(search):
        _add(client, found, run.data.tags[KEY_TAG], _unknown(run))
    return found


def _unknown(run: StoredRun) -> Sent:
    """A run of which nothing is known but its status, so that all is sent again."""
    info, generation = run.info, number(run.data.tags.get(GENERATION_TAG))
    deleted = info.lifecycle_stage != "active"
    return Sent(info.run_id, deleted, generation, status=info.status, end_ms=info.end_time)


def _add(client: MlflowClient, found: dict[str, Sent], key: str, sent: Sent) -> None:
    first = found.setdefault(key, sent)
    if first is sent:
        return
    keep, drop = sorted((first, sent), key=lambda s: (-s.generation, s.deleted, s.run_id))
    found[key] = keep
    if not drop.deleted:
        _drop(client, drop, keep)


def _reconciled(known: dict[str, Sent], found: dict[str, Sent]) -> dict[str, Sent]:
    """The runs found, with what is known of them."""
    return {
        key: known[key] if key in known and _same(known[key], sent) else sent
        for key, sent in found.items()
    }


def _same(known: Sent, found: Sent) -> bool:
    return (known.run_id, known.deleted) == (found.run_id, found.deleted)
