"""The calls that bring one MLflow run from what it is known to hold to what its record says."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pipeline.files import sha256_of
from pipeline.tracking.cursor import NONE_SENT, UNKNOWN, Sent, curve_digest, short_digest
from pipeline.tracking.records import Metric, Run
from pipeline.tracking.store import mask
from pipeline.tracking.supersede import figure_points, known_points

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

NOTE_TAG = "mlflow.note.content"
NONFINITE_TAG = "vae_pipeline.nonfinite"
CONTEXT = "mlflow.data.context"  # shown beside a data set
CHANGED_PARAM_TAG = "vae_pipeline.changed_param."

# MLflow's limits of one batch: 1000 entities, of which 100 params and 100 tags, and 1 MB of JSON.
BATCH_METRICS = 800
BATCH_TEXTS = 100
BATCH_TEXT_BYTES = 300_000
PARAM_LENGTH = 6000
TAG_LENGTH = 8000


def announce(run: Run, sent: Sent) -> bool:
    """Notes what a study's run is about to state, which `verify` knows again when it is no longer
    so; whether anything is new. Of a trial the token of its row and its epochs tell."""
    if run.parent is not None:
        return False
    moved, sent.mark = sent.mark not in (None, run.mark), None
    says: dict[str, Any] = {f"metric {m.key}": m.value for m in run.figures if m.finite}
    says |= {f"tag {key}": fit(text, TAG_LENGTH) for key, text in run.tags.items()}
    new = {what: value for what, value in says.items() if value not in sent.stated.get(what, ())}
    for what, value in new.items():
        sent.stated.setdefault(what, []).append(value)
    if moved or new:  # if we are killed on the way, it must be asked what has arrived
        sent.params = sent.tags = sent.figures = UNKNOWN
    return moved or bool(new)


def send_values(client: MlflowClient, run: Run, sent: Sent, parent_id: str | None) -> int:
    """Sends new params, tags and metric points; returns the number of points."""
    finite = [metric for metric in run.metrics if metric.finite]
    points = finite[known_points(run, sent) or 0 :]
    figures_digest = short_digest(
        [[(m.key, m.value) for m in run.figures if m.finite], run.figures_are_all]
    )
    if figures_digest != sent.figures and (run.figures or run.figures_are_all):
        points += figure_points(client, run, sent)
    tags = _tags(run, parent_id)
    params_digest, tags_digest = short_digest(run.params), short_digest(tags)
    new_tags = tags if tags_digest != sent.tags else {}
    if sent.tags == UNKNOWN and run.first_description:
        held = {} if sent.fresh else client.get_run(sent.run_id).data.tags
        if NOTE_TAG not in held and NOTE_TAG not in tags:
            new_tags = new_tags | {NOTE_TAG: fit(run.first_description, TAG_LENGTH)}
    new_params: dict[str, str] = {}
    if params_digest != sent.params:
        new_params, changed = _new_params(client, run, sent)
        new_tags = new_tags | changed
        sent.params = UNKNOWN  # until all of them are there
    _log(client, sent.run_id, points, new_params, new_tags)
    sent.params, sent.tags, sent.figures = params_digest, tags_digest, figures_digest
    sent.metrics, sent.curve = len(finite), curve_digest(finite)
    return len(points)


def send_stream(client: MlflowClient, run: Run, sent: Sent) -> int:
    """Sends what has come to the stream; returns the number of points."""
    count = 0
    while run.stream is not None:
        points, position = run.stream(sent.position)
        if position == sent.position:
            break
        _log(client, sent.run_id, points, {}, {})
        sent.position = position
        count += len(points)
    return count


def send_dataset(client: MlflowClient, run: Run, sent: Sent) -> None:
    """Lists the data set among the run's inputs."""
    if run.dataset is None or short_digest(asdict(run.dataset)) == sent.dataset:
        return
    from mlflow.entities import Dataset, DatasetInput, InputTag

    data = run.dataset
    source = json.dumps({"uri": mask(data.source)})  # what the UI expects of a local source
    entity = Dataset(data.name, data.digest, "local", source, data.schema, data.profile)
    client.log_inputs(sent.run_id, [DatasetInput(entity, [InputTag(CONTEXT, "training")])])
    sent.dataset = short_digest(asdict(data))


def send_artifacts(client: MlflowClient, run: Run, sent: Sent) -> int:
    """Uploads the files whose content the run lacks; returns their number."""
    count = 0
    for name, path in _files(run.artifacts):
        digest = sha256_of(path)
        if sent.artifacts.get(name) != digest:
            _upload(client, sent.run_id, PurePosixPath(name), path)
            sent.artifacts[name] = digest
            count += 1
    return count


def send_status(client: MlflowClient, run: Run, sent: Sent) -> None:
    """Ends the run, or starts it again (a study that was extended)."""
    if run.status == "RUNNING":
        if sent.status != "RUNNING":
            client.update_run(sent.run_id, status="RUNNING")
    elif (run.status, run.end_ms) != (sent.status, sent.end_ms):
        client.set_terminated(sent.run_id, run.status, run.end_ms)
    sent.status, sent.end_ms = run.status, run.end_ms


def _new_params(
    client: MlflowClient, run: Run, sent: Sent
) -> tuple[dict[str, str], dict[str, str]]:
    """The params that the run lacks, and tags for those that it has with another value.

    MLflow never lets a param change, so the new value is shown as a tag.
    """
    params = {key: fit(value, PARAM_LENGTH) for key, value in run.params.items()}
    if sent.params == NONE_SENT:
        return params, {}
    stored = client.get_run(sent.run_id).data.params
    new = {key: value for key, value in params.items() if key not in stored}
    changed = {
        CHANGED_PARAM_TAG + key: value
        for key, value in params.items()
        if stored.get(key, value) != value
    }
    return new, changed


def _tags(run: Run, parent_id: str | None) -> dict[str, str]:
    tags = {"mlflow.runName": run.name, **run.tags}
    if parent_id is not None:
        tags["mlflow.parentRunId"] = parent_id
    if run.description:
        tags[NOTE_TAG] = run.description
    # MLflow would store an infinity as 1.8e308 and draw it
    if missing := [f"{m.key} = {m.value} at step {m.step}" for m in run.metrics if not m.finite]:
        tags[NONFINITE_TAG] = ", ".join(missing)
    return {key: fit(value, TAG_LENGTH) for key, value in tags.items()}


def fit(text: str, length: int) -> str:
    text = mask(text)
    return text if len(text) <= length else text[: length - 1] + "…"


def _log(
    client: MlflowClient,
    run_id: str,
    metrics: list[Metric],
    params: dict[str, str],
    tags: dict[str, str],
) -> None:
    """Sends everything in as few batches as MLflow's limits allow."""
    from mlflow.entities import Metric as Point
    from mlflow.entities import Param, RunTag

    points = [Point(m.key, m.value, m.timestamp_ms, m.step) for m in metrics]
    batches = zip_longest(
        (points[i : i + BATCH_METRICS] for i in range(0, len(points), BATCH_METRICS)),
        _chunks([Param(key, value) for key, value in params.items()]),
        _chunks([RunTag(key, value) for key, value in tags.items()]),
        fillvalue=(),
    )
    for some_points, some_params, some_tags in batches:
        client.log_batch(run_id, some_points, some_params, some_tags, synchronous=True)


def _chunks(texts: list[Any]) -> Iterator[list[Any]]:
    """Params or tags in order, cut where a batch would have too many or too long ones."""
    chunk: list[Any] = []
    size = 0
    for text in texts:
        weight = len(json.dumps(text.value))
        if chunk and (len(chunk) == BATCH_TEXTS or size + weight > BATCH_TEXT_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(text)
        size += weight
    if chunk:
        yield chunk


def _files(artifacts: dict[str, Path]) -> Iterator[tuple[str, Path]]:
    """Every file with its path in the run; a folder stands for all files in it."""
    for name, path in sorted(artifacts.items()):
        if not path.is_dir():
            yield name, path
            continue
        for file in sorted(path.rglob("*")):
            if file.is_file():
                yield f"{name}/{file.relative_to(path).as_posix()}", file


def _upload(client: MlflowClient, run_id: str, name: PurePosixPath, path: Path) -> None:
    folder = None if name.parent == PurePosixPath(".") else str(name.parent)
    if path.name == name.name:
        client.log_artifact(run_id, str(path), folder)
        return
    with tempfile.TemporaryDirectory() as scratch:  # MLflow uploads under the file's own name
        client.log_artifact(run_id, shutil.copyfile(path, Path(scratch, name.name)), folder)
