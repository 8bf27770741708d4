"""The ranking of a search's trials, and what best.json says of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pipeline.results.states import FINISHED, RANKED, State
from pipeline.settings.space import Space
from pipeline.study.storage.arithmetic import summary
from pipeline.study.storage.rows import Part, Trial, trials_of
from pipeline.study.tables import pareto_front

MOST_RANKED = 20  # that retrain.top may ask for


def ranked(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """The complete and the paused trials, best first, none that repeats a better one's parameters.

    A paused one is ranked by what it has come to: it would be better, not worse, had it gone on.
    """
    order = _distinct(
        sorted(
            (trial for trial in trials if trial.state in RANKED),
            key=lambda trial: (_value(trial), trial.number),
        )
    )
    return [
        {"number": trial.number, "nelbo_nats": _value(trial), "parameters": trial.parameters}
        for trial in order[:MOST_RANKED]
    ]


def unranked(parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """The ranking where no trial is complete: one setting, which was not tried."""
    return [{"number": None, "nelbo_nats": None, "parameters": parameters}]


def best_record(
    space: Space, study: str, parts: Sequence[Part], ranking: list[dict[str, Any]]
) -> dict[str, Any]:
    """The content of best.json: the first of the ranking, and what the search took."""
    trials = trials_of(parts)
    record = {
        "study": study,
        **ranking[0],
        "parameters": space.hyperparameters(ranking[0]["parameters"]).model_dump(),
        "trials": {state: sum(trial.state == state for trial in trials) for state in FINISHED},
        "epochs": sum(len(trial.curve) for trial in trials),
        "arithmetic": summary(part.meta for part in parts if part.curve),
        "ranking": ranking,
    }
    if kept := [part for part in parts if part.kept]:  # none of which this search has trained
        trained = sum(part.epochs - part.since for part in kept)
        record["kept"] = {"trials": len({part.trial for part in kept}), "epochs": trained}
    if len(space.search.objectives) == 2:
        complete = [trial for trial in trials if trial.state == State.COMPLETE]
        record["pareto"] = pareto_front(complete, space.search.objectives)
    return record


def _value(trial: Trial) -> float:
    return trial.result["nelbo_nats"] if trial.result else math.inf


def _distinct(order: list[Trial]) -> list[Trial]:
    """The trials without those that repeat a better one's parameters."""
    seen: list[Any] = []
    distinct = []
    for trial in order:
        if trial.parameters not in seen:
            seen.append(trial.parameters)
            distinct.append(trial)
    return distinct
