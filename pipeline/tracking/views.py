"""Prepared views of MLflow's pages: what of a sweep is shown by one link, and the links.

MLflow 3.17 keeps a view that somebody shares as a tag of the experiment. Nobody promises its form,
so all that depends on it is here, and tests/tracking/test_browser.py looks at the pages.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pipeline.tracking.send import NOTE_TAG

if TYPE_CHECKING:
    from mlflow.entities import Experiment
    from mlflow.tracking import MlflowClient

NELBO = "best_nelbo_nats"
METRICS = (NELBO, "best_recon_nats", "best_kl_nats", "bits_per_dim", "best_epoch")
CURVES = ("nelbo_nats", "recon_nats", "kl_nats")
ATTRIBUTES = ("User", "Source", "Version", "Dataset")
RUN_NAME = "attributes.`Run Name`"
LOG10 = {"lr": "log10_lr"}  # MLflow's scatter plots have no logarithmic axis
SHARED = "mlflow.sharedViewState."
SHARE_KEY = "viewStateShareKey"
KEYS = ("trials", "candidates")
COMPARE = "compare"
SHOWN = ("family", "latent_dim", "lr", "batch_size", "epochs")  # which any two sweeps have


@dataclass(frozen=True)
class View:
    """A table and charts of some runs."""

    key: str  # one of KEYS, or COMPARE
    name: str
    runs: str  # MLflow's filter
    columns: list[str]
    charts: dict[str, list[dict[str, Any]]]  # by section
    changed_ms: int
    group_by: dict[str, Any] | None = None

    def tag(self) -> tuple[str, str]:
        """The experiment's tag that holds the view: name and value."""
        packed = base64.b64encode(zlib.compress(json.dumps(self._state()).encode(), 9)).decode()
        times = {"createdAt": self.changed_ms, "updatedAt": self.changed_ms}
        return SHARED + self.key, json.dumps(
            {"name": self.name, **times, "state": f"deflate;{packed}"}
        )

    def _state(self) -> dict[str, Any]:
        sections = [f"{number} {name}" for number, name in enumerate(self.charts, 1)]
        return {
            "searchFilter": self.runs,
            "orderByKey": _metric(NELBO),
            "orderByAsc": True,
            "selectedColumns": self.columns,
            "columnOrder": [RUN_NAME, *self.columns],
            "runsHiddenMode": "SHOW_ALL",  # charts would show ten
            "groupBy": self.group_by,
            "useGroupedValuesInCharts": True,
            "hideEmptyCharts": True,
            "isAccordionReordered": True,  # else sections of MLflow's own come first
            "compareRunSections": [
                {"uuid": name, "name": name, "display": True, "isReordered": False,
                 "columns": 2, "cardHeight": 360}
                for name in sections
            ],
            "compareRunCharts": [
                {"uuid": f"{section}/{number}", "metricSectionId": section, "deleted": False,
                 "isGenerated": False, "runsCountToCompare": 1000, **chart}
                for section, charts in zip(sections, self.charts.values(), strict=True)
                for number, chart in enumerate(charts)
            ],
        }  # fmt: skip


def views_of(study: str, searched: dict[str, dict[str, Any]], changed_ms: int) -> list[View]:
    """The views of a search: its trials, and its candidates as means over their seeds.

    `searched` are the domains of its hyperparameters, as its specification has them.
    """
    numbers = [name for name, domain in searched.items() if "low" in domain]
    always = [_axis(name) for name, domain in searched.items() if not domain.get("when")]
    columns = [
        *(_metric(name) for name in METRICS),
        *(f"params.`{name}`" for name in searched),
    ]
    origin = [f"attributes.`{name}`" for name in ATTRIBUTES]
    parallel = {"type": "PARALLEL", "selectedParams": always, "selectedMetrics": [NELBO],
                "showAllRuns": True}  # fmt: skip
    curves = [_line(name) for name in CURVES]
    trials = View(
        key="trials",
        name=f"Trials of {study}",
        runs=f"tags.kind = 'trial' AND tags.study = '{study}'",
        columns=[*columns, "tags.`state`", *origin],
        charts={
            "Hyperparameters": [parallel, *(_scatter(_axis(name)) for name in numbers)],
            "Curves": curves,
        },
        changed_ms=changed_ms,
    )
    by_setting = [{"mode": "tag", "groupByData": "search_trial"}]
    candidates = View(
        key="candidates",
        name=f"Candidates of {study}, means over seeds",
        runs=f"tags.kind = 'candidate' AND tags.search_study = '{study}'",
        columns=[*columns, *origin],
        charts={"Means over seeds": [{"type": "BAR", "metricKey": NELBO}], "Curves": curves},
        changed_ms=changed_ms,
        group_by={"aggregateFunction": "average", "groupByKeys": by_setting},
    )
    return [trials, candidates]


def compared() -> View:
    """The candidates of two sweeps. MLflow shows it if both have it, so it is the same for all."""
    columns = ["attributes.`Experiment Name`", *map(_metric, METRICS)]
    columns += [*(f"params.`{name}`" for name in SHOWN), "tags.`search_study`", "tags.`state`"]
    curves = [_line(name) for name in CURVES]
    return View(
        key=COMPARE,
        name="Candidates of two sweeps",
        runs="tags.kind = 'candidate'",
        columns=columns,
        charts={"Seeds": [{"type": "BAR", "metricKey": NELBO}], "Curves": curves},
        changed_ms=0,
    )


def compare_link(experiment_ids: Sequence[str]) -> str:
    """The address of the candidates of several experiments, from # on."""
    ids = quote(json.dumps(list(experiment_ids), separators=(",", ":")))
    return f"#/compare-experiments/s?experiments={ids}&{SHARE_KEY}={COMPARE}"


def links(tags: dict[str, str], experiment_id: str) -> dict[str, str]:
    """Of the views that an experiment's tags hold, what there is to see, and the address from # on.

    Views that a person has shared are left out.
    """
    found: dict[str, str] = {}
    for key in (key for key in KEYS if SHARED + key in tags):
        page = f"#/experiments/{experiment_id}/runs?workflowType=machine_learning&{SHARE_KEY}={key}"
        found |= {key: page, f"{key} in charts": f"{page}&compareRunsMode=CHART"}
    return found


def send_views(client: MlflowClient, experiment_id: str, views: Sequence[View]) -> None:
    """Writes what of the views an experiment lacks, and their links atop its description.

    The lines below the first are a person's, and so is the first if it holds no such link.
    """
    held = client.get_experiment(experiment_id).tags
    wanted = dict(view.tag() for view in [*views, compared()])
    there = links(wanted, experiment_id)
    if other := _other(client, experiment_id):
        there[f"compare with {other.name}"] = compare_link([experiment_id, other.experiment_id])
    wanted[NOTE_TAG] = _note(held.get(NOTE_TAG, ""), there)
    for key, value in wanted.items():
        if held.get(key) != value:
            client.set_experiment_tag(experiment_id, key, value)


def has_candidates(client: MlflowClient, experiment: Experiment) -> bool:
    """Whether there is something to compare: a sweep that was only searched has none."""
    if SHARED + COMPARE not in experiment.tags:
        return False
    return bool(client.search_runs([experiment.experiment_id], compared().runs, max_results=1))


def _other(client: MlflowClient, experiment_id: str) -> Experiment | None:
    """Of the other sweeps that have candidates the one that came last."""
    has_it = f"tags.`{SHARED}{COMPARE}` LIKE '%'"
    found = client.search_experiments(filter_string=has_it, max_results=1000)
    found.sort(key=lambda each: (each.creation_time or 0, each.experiment_id), reverse=True)
    others = (each for each in found if each.experiment_id != experiment_id)
    return next((each for each in others if has_candidates(client, each)), None)


def _note(held: str, links: dict[str, str]) -> str:
    first, _, rest = held.partition("\n")
    if SHARE_KEY not in first:
        rest = f"\n{held}" if held else ""
    line = " · ".join(f"[{what}]({link})" for what, link in links.items())
    return f"{line}\n{rest}" if rest else line


def _metric(name: str) -> str:
    return f"metrics.`{name}`"


def _axis(hyperparameter: str) -> str:
    return LOG10.get(hyperparameter, hyperparameter)


def _line(metric: str) -> dict[str, Any]:
    return {"type": "LINE", "metricKey": metric, "lineSmoothness": 0}


def _scatter(hyperparameter: str) -> dict[str, Any]:
    axes = {"xaxis": {"key": hyperparameter, "type": "PARAM"},
            "yaxis": {"key": NELBO, "type": "METRIC"}}  # fmt: skip
    return {"type": "SCATTER", **axes}
