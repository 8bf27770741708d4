"""Stage search: the study of a sweep, and its tables.

Reads prepare/; writes search/trials.csv (a row a trial), search/curves.csv (a row a trial and
epoch) and search/best.json. The live study is in the ledger, outside the output, so that more
trials extend it and an interrupted search goes on.
"""

from __future__ import annotations

import math
import sys
from typing import Any

from pipeline.config import Space
from pipeline.crew import run_studies
from pipeline.errors import UserError
from pipeline.machine import Machine
from pipeline.paths import Paths, atomic_folder, read_json, write_json
from pipeline.study.budget import most_trials
from pipeline.study.identity import Study, changes, search_study
from pipeline.study.ledger import Ledger, Trial, storage_url
from pipeline.study.tables import curves_table, pareto_front, trials_table

RANKED = 20  # the most that retrain.top may ask for
REASONS = 3  # of failures in a message


def run(space: Space, machine: Machine, paths: Paths) -> None:
    """Finishes the study's trials and writes the tables. Raises UserError if all trials failed."""
    manifest = read_json(paths.prepare / "manifest.json")
    study = search_study(space, manifest["sha256"])
    ledger = Ledger(storage_url(machine, paths))
    _announce(space, study, ledger)
    ledger.open_study(study.id, space.name, study.kind, study.spec)
    run_studies("search", space, machine, paths, ledger, [study], {})
    trials = ledger.trials(study.id, 0, ledger.admitted(study) - 1)
    best = _best(space, study, trials)
    with atomic_folder(paths.search) as folder:
        trials_table(trials, list(space.searched)).to_csv(folder / "trials.csv", index=False)
        curves_table(trials).to_csv(folder / "curves.csv", index=False)
        write_json(folder / "best.json", best)


def _announce(space: Space, study: Study, ledger: Ledger) -> None:
    """Says whether the study is new, goes on, or has forked from an earlier one and why."""
    if not space.searched:
        print(f"search {space.name}: nothing is searched: no trials", file=sys.stderr)
        return
    known = ledger.studies(space.name, "search")
    done = ledger.finished(study.id, study.budget)
    if study.id in known:
        budget = most_trials([study])
        print(f"search {space.name}: study {study.id} has {done} of {budget} trials",
              file=sys.stderr)  # fmt: skip
        return
    if not known:
        print(f"search {space.name}: new study {study.id}", file=sys.stderr)
        return
    previous = list(known)[-1]
    why = "; ".join(changes(known[previous], study.spec))
    print(
        f"search {space.name}: study {study.id} forks from {previous}, whose trials are not"
        f" comparable: {why}",
        file=sys.stderr,
    )


def _best(space: Space, study: Study, trials: list[Trial]) -> dict[str, Any]:
    """The ranking of the complete trials, best first, and what the search took."""
    complete = [trial for trial in trials if trial.state == "complete"]
    ranked = _distinct(sorted(complete, key=lambda trial: (_value(trial), trial.number)))
    ranking: list[dict[str, Any]] = [
        {"number": trial.number, "nelbo_nats": _value(trial), "parameters": trial.parameters}
        for trial in ranked[:RANKED]
    ]
    if not ranking:
        only = _fallback(space, trials) if space.searched else {}
        ranking = [{"number": None, "nelbo_nats": None, "parameters": only}]
    states = ("complete", "pruned", "failed")
    record = {
        "study": study.id,
        **ranking[0],
        "parameters": space.hyperparameters(ranking[0]["parameters"]).model_dump(),
        "trials": {state: sum(trial.state == state for trial in trials) for state in states},
        "epochs": sum(len(trial.curve) for trial in trials),
        "ranking": ranking,
    }
    if len(space.search.objectives) == 2:
        record["pareto"] = pareto_front(complete, space.search.objectives)
    return record


def _fallback(space: Space, trials: list[Trial]) -> dict[str, Any]:
    reasons = sorted({(trial.reason or "pruned").splitlines()[0] for trial in trials})
    rest = [f"and {len(reasons) - REASONS} other reasons"] if len(reasons) > REASONS else []
    why = (
        f"search {space.name}: none of {len(trials)} trials succeeded:"
        f" {'; '.join(reasons[:REASONS] + rest)}"
    )
    if space.search.fallback is None:
        raise UserError(f"{why}: widen the search space or set search.fallback")
    print(f"{why}: going on with search.fallback", file=sys.stderr)
    return space.search.fallback


def _value(trial: Trial) -> float:
    return trial.result["nelbo_nats"] if trial.result else math.inf


def _distinct(ranked: list[Trial]) -> list[Trial]:
    """The trials without those that repeat a better one's parameters."""
    seen: list[Any] = []
    distinct = []
    for trial in ranked:
        if trial.parameters not in seen:
            seen.append(trial.parameters)
            distinct.append(trial)
    return distinct
