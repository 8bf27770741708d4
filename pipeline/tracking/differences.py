"""Whether the runs of a store state what their records say.

A run is *late* if the mirror has not sent its record as it is now, or cannot tell. Late or not,
what a run states and the record does not is a finding. What a late one does not state yet is none,
nor is that it states a work to be at hand that has ended, or a best value that was passed since:
it cannot look better by that. Nor is what the mirror knows to have sent of an earlier state of
the sweep, as an edit that was undone leaves it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.tracking.mirror import KEY_TAG, PAGE
from pipeline.tracking.records import Run
from pipeline.tracking.send import CHANGED_PARAM_TAG, PARAM_LENGTH, TAG_LENGTH, fit
from pipeline.tracking.store import connect, is_absent, outages, pages, readable, sqlite_file
from pipeline.tracking.supersede import STREAMS, TOKEN_TAG
from pipeline.tracking.views import LOG10, NELBO

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

SHOWN = 3  # differences of one run
Stated = dict[str, list[Any]]  # of a run by tag and metric: what it was sent
# What runs of earlier versions lack until the next sync; it only repeats what is compared.
ADDED = {
    *LOG10.values(),
    *(f"mlflow.{name}" for name in ("user", "source.name", "source.type", "source.git.commit")),
}


UNFINISHED = {"running", "interrupted", "paused", "RUNNING", "KILLED"}  # of tags, of a status
BEST = (NELBO, "search_best_nelbo_nats")  # each falls as its study or trial goes on


def differences(
    uri: str, experiment: str, runs: list[Run], late: Callable[[Run], Stated | None]
) -> tuple[set[str], dict[str, list[str]]]:
    """The keys of the runs that are behind, and what the store states otherwise by key; it is only
    read. `late` tells what a run that is late was made to state, and None of any other.

    A run that is not late and not there was deleted by somebody. Raises MirrorUnavailable when the
    store fails.
    """
    behind = {run.key for run in runs if late(run) is not None}
    if (file := sqlite_file(uri)) and is_absent(file):
        return behind, {}
    with outages(uri), readable(uri) as here:
        client = connect(here)
        known = client.get_experiment_by_name(experiment)
        if known is None:
            return behind, {}
        stored = _stored(client, known.experiment_id)
        behind, found = behind - stored.keys(), dict[str, list[str]]()
        for run in runs:
            if run.key not in stored:
                continue
            lines = _Lines(run, stored[run.key], late(run))
            lines.compare(client)
            if lines.behind:
                behind.add(run.key)
            if lines.found:
                found[run.key] = [f"MLflow: {run.name}: {line}" for line in lines.found[:SHOWN]]
        return behind, found


def _stored(client: MlflowClient, experiment_id: str) -> dict[str, Any]:
    """Our runs that nobody has deleted, by key."""
    search = partial(
        client.search_runs, [experiment_id], f"tags.`{KEY_TAG}` LIKE '%'", 1, PAGE, None
    )
    return {run.data.tags[KEY_TAG]: run for run in pages(search)}


class _Lines:
    """What one run states otherwise than its record, and whether it only lacks something."""

    def __init__(self, run: Run, stored: Any, stated: Stated | None):
        self.run, self._late, self._stated = run, stated is not None, stated or {}
        self._data, self._info = stored.data, stored.info
        self.found, self.behind = list[str](), False

    def compare(self, client: MlflowClient) -> None:
        run, tags = self.run, self._data.tags
        # Whoever mirrored a work that was broken off may have been broken off with it.
        over = run.status in ("FINISHED", "FAILED") and not self._late
        self._text("status", self._info.status, run.status, earlier=not over)
        for key, value in run.params.items():
            has = tags.get(CHANGED_PARAM_TAG + key, self._data.params.get(key))
            self._text(f"param {key}", has, fit(value, PARAM_LENGTH))
        for key, value in run.tags.items():
            earlier = key == "state" and not over
            if key == TOKEN_TAG and self._late:
                has = tags.get(key, "0")
                earlier = has.isdecimal() and int(has) < int(value)
            self._text(f"tag {key}", tags.get(key), fit(value, TAG_LENGTH), earlier=earlier)
        self._curves(client)
        self._figures()

    def _text(self, what: str, has: str | None, says: str, *, earlier: bool = False) -> None:
        if has == says or (has is None and what.split(" ")[-1] in ADDED):
            return
        if (has is None and self._late) or (earlier and (has in UNFINISHED or "token" in what)):
            self.behind = True
        elif not self._was_sent(what, has):
            self.found.append(f"{what} is {has}, but the record says {says:.80}")

    def _curves(self, client: MlflowClient) -> None:
        curves: dict[str, set[tuple[int, float]]] = {}
        for metric in self.run.metrics:
            if metric.finite and not metric.key.startswith(STREAMS):
                curves.setdefault(metric.key, set()).add((metric.step, metric.value))
        for key, points in curves.items():
            has = {(m.step, m.value) for m in client.get_metric_history(self._info.run_id, key)}
            if extra := sorted(has - points):
                step, value = extra[0]
                self.found.append(f"metric {key}: {value} at step {step} is not in the record")
            elif missing := sorted(points - has):
                self._missing(f"metric {key}: {missing[0][1]} at step {missing[0][0]} is missing")

    def _figures(self) -> None:
        run = self.run
        held = {key: value for key, value in self._data.metrics.items() if not math.isnan(value)}
        figures = {metric.key: metric.value for metric in run.figures if metric.finite}
        passed = {key for key in BEST if self._late and held.get(key, 0.0) > figures.get(key, 0.0)}
        for key, value in figures.items():
            if key not in held:
                self._missing(f"metric {key}: {value} is missing")
            elif held[key] != value and (key in passed or NELBO in passed):
                self.behind = True  # all figures of a trial are of the epoch that it keeps
            elif held[key] != value and not self._was_sent(f"metric {key}", held[key]):
                self.found.append(f"metric {key} is {held[key]}, but the record says {value}")
        ours = figures.keys() | run.curves | {metric.key for metric in run.metrics}
        if run.figures_are_all:
            self.found += [
                f"metric {key}: {value} is not in the record"
                for key, value in held.items()
                if key not in ours
                and not key.startswith(STREAMS)
                and not self._was_sent(f"metric {key}", value)
            ]

    def _was_sent(self, what: str, has: Any) -> bool:
        """Whether it was so once, and is only behind."""
        was = has in self._stated.get(what, ())
        self.behind |= was
        return was

    def _missing(self, line: str) -> None:
        if self._late:
            self.behind = True
        else:
            self.found.append(line)
