"""The figures and columns by which MLflow shows a study or a trial."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from pipeline.results.keys import CURVE, PARTS
from pipeline.results.states import RANKED, State
from pipeline.study.storage.rows import Trial
from pipeline.tracking.records import Metric
from pipeline.tracking.views import LOG10

# What of an epoch becomes a curve in MLflow.
CURVES = (*CURVE, "seconds")
ORIGIN = {"git_commit": "mlflow.source.git.commit", "user": "mlflow.user"}


def origin(name: str, meta: dict[str, Any]) -> dict[str, str]:
    """What MLflow's columns Source, Version and User show of what a sweep's trial records."""
    return {
        "mlflow.source.name": f"search_spaces/{name}.yaml",
        "mlflow.source.type": "LOCAL",
        **{tag: meta[key] for key, tag in ORIGIN.items() if meta.get(key)},
    }


def ended(trial: Trial) -> int:
    """When a trial ended or was last heard of."""
    last = trial.curve[-1] if trial.curve else {}
    return trial.finished_ms or last.get("ended_ms", trial.started_ms)


def epoch_points(record: dict[str, Any], started_ms: int) -> Iterator[Metric]:
    """What an epoch gives; one of a kept trial is stamped with its trial's start."""
    for name in CURVES:
        if name in record:
            ended_ms = record.get("ended_ms", started_ms)
            yield Metric(name, float(record[name]), record["epoch"], ended_ms)


def params(parameters: dict[str, Any]) -> dict[str, str]:
    """The hyperparameters as MLflow shows them, and logarithms for its plots."""
    logs = {
        log: f"{math.log10(parameters[name]):.4f}"
        for name, log in LOG10.items()
        if parameters.get(name)
    }
    return {key: str(value) for key, value in parameters.items() if value is not None} | logs


def kept(trial: Trial, manifest: dict[str, Any] | None = None) -> dict[str, float]:
    """Of the epoch whose weights a trial keeps: what trials are compared by.

    The manifest of its data tells how many dimensions share the nats.
    """
    if trial.result is None:
        return {}
    found = {f"best_{key}": trial.result[key] for key in PARTS if key in trial.result}
    found["best_epoch"] = trial.result["best_epoch"]
    if manifest:
        dimensions = math.prod(manifest["shape"])
        found["bits_per_dim"] = trial.result["nelbo_nats"] / (dimensions * math.log(2))
    return found


def best(trials: list[Trial]) -> list[Metric]:
    """The best validation NELBO of the search so far, stamped with its trial's end."""
    done = [trial for trial in trials if trial.state in (*RANKED, State.RUNNING) and trial.result]
    best = min(done, key=lambda trial: (kept(trial)["best_nelbo_nats"], trial.number), default=None)
    if best is None:
        return []
    return points({"search_best_nelbo_nats": kept(best)["best_nelbo_nats"]}, ended(best))


def points(values: dict[str, float], timestamp_ms: int) -> list[Metric]:
    return [Metric(key, float(value), 0, timestamp_ms) for key, value in values.items()]
