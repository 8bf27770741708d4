"""Whether the runs of a store state what their records say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pipeline.tracking.mirror import KEY_TAG, PAGE
from pipeline.tracking.run import Metric, Run
from pipeline.tracking.send import CHANGED_PARAM_TAG, PARAM_LENGTH, TAG_LENGTH, fit
from pipeline.tracking.store import connect, is_absent, outages, readable, sqlite_file
from pipeline.tracking.views import LOG10

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

SHOWN = 3  # differences of one run
# What runs of earlier versions lack until the next sync; it only repeats what is compared.
ADDED = {
    *LOG10.values(),
    *(f"mlflow.{name}" for name in ("user", "source.name", "source.type", "source.git.commit")),
}


def differences(uri: str, experiment: str, runs: list[Run]) -> tuple[int, list[str]]:
    """How many of the runs the store has, and what these state otherwise; it is only read.

    Raises MirrorUnavailable when the store fails.
    """
    if (file := sqlite_file(uri)) and is_absent(file):
        return 0, []
    with outages(uri), readable(uri) as here:
        client = connect(here)
        known = client.get_experiment_by_name(experiment)
        if known is None:
            return 0, []
        stored = _stored(client, known.experiment_id)
        found: list[str] = []
        sent = [run for run in runs if run.key in stored]
        for run in sent:
            lines = list(_differences(client, run, stored[run.key]))
            found += [f"MLflow: {run.name}: {line}" for line in lines[:SHOWN]]
        return len(sent), found


def _stored(client: MlflowClient, experiment_id: str) -> dict[str, Any]:
    """Our runs that nobody has deleted, by key."""
    found: dict[str, Any] = {}
    token = None
    while True:
        page = client.search_runs([experiment_id], f"tags.`{KEY_TAG}` LIKE '%'", 1, PAGE, None,
                                  token)  # fmt: skip
        found.update((run.data.tags[KEY_TAG], run) for run in page)
        token = page.token
        if not token:
            return found


def _differences(client: MlflowClient, run: Run, stored: Any) -> Iterator[str]:
    data, info = stored.data, stored.info
    if info.status != run.status:
        yield f"status is {info.status}, but the record says {run.status}"
    for key, value in run.params.items():
        has = data.tags.get(CHANGED_PARAM_TAG + key, data.params.get(key))
        if has != fit(value, PARAM_LENGTH) and not (has is None and key in ADDED):
            yield f"param {key} is {has}, but the record says {value}"
    for key, value in run.tags.items():
        has = data.tags.get(key)
        if has != fit(value, TAG_LENGTH) and not (has is None and key in ADDED):
            yield f"tag {key} is {has}, but the record says {value:.80}"
    curves: dict[str, set[tuple[int, float]]] = {}
    for metric in run.metrics:
        if metric.finite and not metric.key.startswith("system/"):
            curves.setdefault(metric.key, set()).add(_point(metric))
    for key, points in curves.items():
        has = {(m.step, m.value) for m in client.get_metric_history(info.run_id, key)}
        if wrong := sorted(has - points) or sorted(points - has):
            step, value = wrong[0]
            says = "is not in the record" if wrong[0] in has else "is missing"
            yield f"metric {key}: {value} at step {step} {says}"


def _point(metric: Metric) -> tuple[int, float]:
    return metric.step, metric.value
