"""What becomes of values that are no longer so. MLflow appends: it takes no metric back.

A *figure* has one value: the new one is sent as a later step, and a figure that is no longer
stated gets NaN, so that what MLflow shows is what the record says. A *curve* whose points are no
longer those of its record (a trial that was opened again and trained otherwise) cannot be mended:
its run goes to MLflow's trash, and another run of the same key takes its place.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pipeline.tracking.cursor import UNKNOWN, Sent, curve_digest
from pipeline.tracking.records import Metric, Run

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

TOKEN_TAG = "vae_pipeline.token"  # of the source's row: a higher one is a later training
GENERATION_TAG = "vae_pipeline.generation"  # of runs of one key, the highest counts
SUPERSEDED_TAG = "vae_pipeline.superseded_by"
STREAMS = "system/"  # keys of metrics that only grow


def number(tag: str | None) -> int:
    """That of a tag; 0 if there is none, or somebody has written something else into it."""
    return int(tag) if tag and tag.isdecimal() else 0


def known_points(run: Run, sent: Sent) -> int | None:
    """How many of the record's first points the run is known to hold; None if it must be asked."""
    if sent.curve == UNKNOWN:
        return None
    finite = [metric for metric in run.metrics if metric.finite]
    return sent.metrics if curve_digest(finite[: sent.metrics]) == sent.curve else None


def is_superseded(client: MlflowClient, run: Run, sent: Sent) -> bool:
    """Whether the run in MLflow has points that the record does not have."""
    wanted = {(m.key, m.step, m.value) for m in run.metrics if m.finite}
    held = client.get_run(sent.run_id).data
    keys = (run.curves | {m.key for m in run.metrics}) & held.metrics.keys()
    if sent.curve == UNKNOWN:  # one request tells enough: a curve's last point
        last = {(m.key, m.step, m.value) for m in held.to_proto().metrics if m.key in keys}
        return not last <= wanted
    return any(
        (point.key, point.step, point.value) not in wanted
        for key in keys
        for point in client.get_metric_history(sent.run_id, key)
    )


def is_outdated(client: MlflowClient, run: Run, sent: Sent) -> bool:
    """Whether the record is older than what MLflow holds: another host was faster."""
    held = client.get_run(sent.run_id).data
    token, theirs = number(run.tags.get(TOKEN_TAG)), number(held.tags.get(TOKEN_TAG))
    if token != theirs:
        return token < theirs
    keys = run.curves | {m.key for m in run.metrics}
    step = max((m.step for m in run.metrics), default=-1)
    return run.status == "RUNNING" and any(
        m.step > step for m in held.to_proto().metrics if m.key in keys
    )


def figure_points(client: MlflowClient, run: Run, sent: Sent) -> list[Metric]:
    """The points after which MLflow shows the record's figures."""
    wanted = {m.key: (m.value, m.timestamp_ms) for m in run.figures if m.finite}
    held = {} if sent.fresh else client.get_run(sent.run_id).data.metrics
    if run.figures_are_all:
        ours = run.curves | {m.key for m in run.metrics} | wanted.keys()
        gone = [k for k in held if k not in ours and not k.startswith(STREAMS)]
        now = max((time for _, time in wanted.values()), default=run.end_ms or run.start_ms)
        wanted |= dict.fromkeys(gone, (math.nan, now))
    return [
        Metric(key, value, _next_step(client, sent, key) if key in held else 0, time)
        for key, (value, time) in wanted.items()
        if not _same(held.get(key), value)
    ]


def _next_step(client: MlflowClient, sent: Sent, key: str) -> int:
    return 1 + max(point.step for point in client.get_metric_history(sent.run_id, key))


def _same(held: float | None, value: float) -> bool:
    return held is not None and (held == value or (math.isnan(held) and math.isnan(value)))
