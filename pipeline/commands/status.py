"""What `status` prints: per study its trials, the best, who works on what, how long it may take."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from pipeline.commands.list import size
from pipeline.commands.workers import workers_lines
from pipeline.errors import UserError
from pipeline.files import read_json
from pipeline.paths import Paths
from pipeline.results.record import belongs, checked, is_made, prepared_sha256
from pipeline.results.states import RANKED, Kind, State
from pipeline.settings.machine import Machine
from pipeline.settings.space import Space, load_space, space_names
from pipeline.study.budget import budget_text
from pipeline.study.identity import Study, candidate_study, search_study
from pipeline.study.search.forecast import forecast
from pipeline.study.storage.arithmetic import summary
from pipeline.study.storage.ledger import LEASE_SECONDS, Ledger
from pipeline.study.storage.readonly import reading
from pipeline.study.storage.rows import Trial
from pipeline.study.watch import Stage, Watch, most_trials, races
from pipeline.sync.lag import lag_line
from pipeline.work.budget_file import as_made
from pipeline.work.owners import is_gone, is_here, shown
from pipeline.work.progress import clock_time


def status_text(root: Path, machine: Machine, name: str | None, wrong: list[str]) -> str:
    """The studies of one sweep or all, oldest first.

    What is wrong with a sweep, its space or its outputs, is added to `wrong`: the others are
    shown. Raises UserError for an unknown name.
    """
    blocks: list[str] = []
    with reading(machine, Paths(root, "")) as ledger:
        names = [name] if name else space_names(root)
        for each in names:
            try:
                blocks += _sweep(root, load_space(root, each), machine, ledger)
            except UserError as error:
                wrong.append(str(error))
    return "\n\n".join(blocks) or ("" if wrong else _nothing(root, names))


def _nothing(root: Path, names: list[str]) -> str:
    """Why there is nothing to show: nothing has run, or the ledger is not the outputs'."""
    if made := [name for name in names if is_made(Paths(root, name), "search")]:
        return (
            f"the ledger has no study of {made[0]}, whose outputs are in runs/{made[0]}: put the"
            f" ledger back, or `python -m pipeline search {made[0]}` trains anew"
        )
    return "no study yet: `python -m pipeline run NAME` or `dvc repro`"


def _sweep(root: Path, space: Space, machine: Machine, ledger: Ledger) -> list[str]:
    blocks, paths = [], Paths(root, space.name)
    current = current_studies(space, paths)
    for kind in Kind:
        known = ledger.studies(space.name, kind)
        here = [study for study in current.values() if study.kind == kind]
        begun = bool(here) and all(study.id in known for study in here)
        stage = Stage(ledger, here, space) if begun else None
        if stage:
            stage.refresh()
        for study in known:
            is_old = kind == Kind.SEARCH and current and study not in current
            other = ", of other settings than the file's" if is_old else ""
            lines = _study(ledger, study, kind, stage if study in current else None, other)
            blocks.append("\n".join([*lines, _disk(paths, study)]))
    made = as_made(space, paths)
    chosen = f"outputs of {space.name}: {budget_text(space, made)}" if made != space else ""
    there = "\n".join(workers_lines(ledger, space.name))
    return [*blocks, *filter(None, [there, chosen, lag_line(root, made, machine, ledger)])]


def current_studies(space: Space, paths: Paths) -> dict[str, Study]:
    """The studies that the next command would work on, as far as the outputs tell."""
    if not is_made(paths, "prepare"):
        return {}
    data = prepared_sha256(paths)
    studies = [search_study(space, data)]
    if is_made(paths, "search") and belongs(paths, "search"):
        ranking = read_json(checked(paths, paths.best))["ranking"][: space.retrain.top]
        studies += [candidate_study(space, data, entry["parameters"]) for entry in ranking]
    return {study.id: study for study in studies}


def _study(ledger: Ledger, id_: str, kind: Kind, stage: Stage | None, other: str) -> Iterator[str]:
    """`stage`: of the present studies of its kind; None if it is an earlier one."""
    watches = stage.watches if stage else []
    watch = next((each for each in watches if each.study.id == id_), None)
    current = watch.study if watch else None
    trials, now = ledger.trials(id_), ledger.now()
    counts = ", ".join(f"{sum(t.state == s for t in trials)} {s}" for s in State)
    what = "trials" if kind == Kind.SEARCH else "runs"
    place = f" {watches.index(watch)}," if watch and kind == Kind.CANDIDATE else ""
    yield f"{kind}{place} {id_}{other}: {len(trials)} {what}: {counts}"
    if kept := sum(trial.kept is not None for trial in trials):
        yield f"  kept: {kept} of them, of earlier studies"
    best = min(trials, key=_value, default=None)
    if best and math.isfinite(_value(best)):
        yield f"  best: {best.number} with NELBO {_value(best):.2f} nats{_after(best, current)}"
    elif stage and trials and watch and kind == Kind.SEARCH and stage.is_over:
        name = watch.space.name
        yield (
            f"  no trial has succeeded: change what search_spaces/{name}.yaml searches (a lower lr,"
            " if they diverged), set search.fallback, or train them again by `python -m pipeline"
            f" retry {name}`"
        )
    if watch and kind == Kind.SEARCH and len(watch.space.search.pauses) > 1:
        yield f"  rungs: {_rungs(watch)}"
    if stage and watch and kind == Kind.CANDIDATE:
        number = watches.index(watch)
        if look := stage.race.dropped.get(number):
            yield f"  race: dropped after {look.epoch} epochs"
        if any(ask.candidate == number for ask in stage.race.missing):
            yield f"  budget: {_left(trials, watch, stage)}"
    elif stage and watch and not stage.is_over:
        yield f"  budget: {_left(trials, watch, stage)}"
    if computed := [meta for trial in trials if trial.curve for meta in trial.metas]:
        yield f"  arithmetic: {summary(computed)}"
    for trial in trials:
        if trial.state == State.RUNNING:
            yield f"  {trial.number}: {_epochs(trial, current)}; {_holder(trial, now)}"
        elif trial.state == State.FAILED:
            yield f"  {trial.number}: failed: {(trial.reason or '').splitlines()[0]}"


def _value(trial: Trial) -> float:
    # One that has gone on from a rung is worth what it was there.
    counts = trial.state in (*RANKED, State.RUNNING) and trial.result
    return trial.result["nelbo_nats"] if counts and trial.result else math.inf


def _after(trial: Trial, current: Study | None) -> str:
    """Of a trial that may still go on, how far it was trained."""
    if current is None or trial.state == State.COMPLETE or trial.result is None:
        return ""
    return f" after {trial.result['epochs']} of {current.epochs} epochs"


def _rungs(watch: Watch) -> str:
    """How many trials have come how far."""
    done = [part.until for part in watch.parts if part.state in RANKED]
    counts = (f"{done.count(rung)} to epoch {rung}" for rung in watch.space.search.pauses)
    return f"trained {', '.join(counts)}"


def _left(trials: list[Trial], watch: Watch, stage: Stage) -> str:
    """Ended of all, and the time that the rest takes at the pace of those who work now."""
    study = watch.study
    racing = races(watch.space, [each.study for each in stage.watches])
    finished = [trial for trial in trials if trial.state != State.RUNNING]
    text = f"{len(finished)} of {most_trials([study], racing=racing)} finished"
    workers = sum(trial.owner is not None for trial in trials)
    records = [record for trial in trials for record in trial.curve]
    seconds = [record["seconds"] for record in records if "seconds" in record]  # not of kept ones
    if not workers:
        return f"{text}; nobody works on it"
    if not finished or not seconds:
        return f"{text}; {workers} at work"
    had = sum(len(trial.curve) for trial in trials)
    if racing:
        whole: float = study.budget * study.epochs
    elif len(watch.space.search.pauses) > 1 and study.kind == Kind.SEARCH:
        kept = [part for part in watch.parts if part.kept]
        whole = forecast(watch.space, begins_with=kept).epochs
    else:  # those that stopped early tell how long the others will take
        whole = study.budget * sum(len(trial.curve) for trial in finished) / len(finished)
    epochs = max(0.0, min(whole, study.total_epochs or math.inf) - had)
    left = clock_time(epochs * sum(seconds) / len(seconds) / workers)
    about = "at most about" if racing else "about"
    return f"{text}; {workers} at work, {about} {left} left"


def _epochs(trial: Trial, current: Study | None) -> str:
    of = f" of {current.epochs}" if current else ""
    last = trial.curve[-1] if trial.curve else {}
    pace = f", {last['seconds']:.1f} s an epoch" if "seconds" in last else ""
    return f"{len(trial.curve)}{of} epochs done{pace}"


def _holder(trial: Trial, now: float) -> str:
    if trial.owner is None:
        return "held by nobody: it goes on with the next worker"
    age = now - (trial.expires - LEASE_SECONDS)
    lives = is_here(trial.owner) and not is_gone(trial.owner)
    what = "stands still" if lives else "is gone"
    over = "" if now < trial.expires else f": its worker {what}, the next one takes it over"
    return f"held by {shown(trial.owner)}, renewed {age:.0f} s ago{over}"


def _disk(paths: Paths, study: str) -> str:
    return f"  disk: {size([paths.study(study)])} of checkpoints, weights and logs"
