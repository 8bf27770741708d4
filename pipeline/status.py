"""What `status` prints: per study its trials, the best, who works on what, how long it may take."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import Space, load_space, space_names
from pipeline.machine import Machine
from pipeline.paths import Paths, read_json
from pipeline.progress import clock_time

if TYPE_CHECKING:
    from pipeline.study.identity import Study
    from pipeline.study.ledger import Ledger, Trial

STATES = ("running", "complete", "pruned", "failed")


def status_text(root: Path, machine: Machine, name: str | None) -> str:
    """The studies of one sweep or all, oldest first. Raises UserError for an unknown name."""
    from pipeline.lag import lag_line
    from pipeline.study.ledger import Ledger, storage_url

    spaces = [load_space(root, each) for each in ([name] if name else space_names(root))]
    ledger = Ledger(storage_url(machine, Paths(root, "")))
    blocks = []
    for space in spaces:
        current = _current(space, Paths(root, space.name))
        for kind in ("search", "candidate"):
            for study in ledger.studies(space.name, kind):
                lines = _study(ledger, study, kind, current.get(study))
                blocks.append("\n".join([*lines, _disk(Paths(root, space.name), study)]))
        blocks += filter(None, [lag_line(root, space, machine, ledger)])
    return "\n\n".join(blocks) or "no study yet: `python -m pipeline run NAME` or `dvc repro`"


def _current(space: Space, paths: Paths) -> dict[str, Study]:
    """The studies that the next command would work on, as far as the outputs tell."""
    from pipeline.study.identity import candidate_study, search_study

    if not (paths.prepare / "manifest.json").exists():
        return {}
    data = read_json(paths.prepare / "manifest.json")["sha256"]
    studies = [search_study(space, data)]
    if (paths.search / "best.json").exists():
        ranking = read_json(paths.search / "best.json")["ranking"][: space.retrain.top]
        studies += [candidate_study(space, data, entry["parameters"]) for entry in ranking]
    return {study.id: study for study in studies}


def _study(ledger: Ledger, id_: str, kind: str, current: Study | None) -> Iterator[str]:
    trials, now = ledger.trials(id_), ledger.now()
    counts = ", ".join(f"{sum(t.state == s for t in trials)} {s}" for s in STATES)
    yield f"{kind} {id_}: {len(trials)} {'trials' if kind == 'search' else 'runs'}: {counts}"
    best = min(trials, key=_value, default=None)
    if best and math.isfinite(_value(best)):
        yield f"  best: {best.number} with NELBO {_value(best):.2f} nats"
    if current and not ledger.is_over(current):
        yield f"  budget: {_left(trials, current)}"
    for trial in trials:
        if trial.state == "running":
            yield f"  {trial.number}: {_epochs(trial, current)}; {_holder(trial, now)}"
        elif trial.state == "failed":
            yield f"  {trial.number}: failed: {(trial.reason or '').splitlines()[0]}"


def _value(trial: Trial) -> float:
    done = trial.state == "complete" and trial.result
    return trial.result["nelbo_nats"] if done and trial.result else math.inf


def _left(trials: list[Trial], study: Study) -> str:
    """Finished of all, and the time that the rest takes at the pace of those who work now."""
    from pipeline.study.budget import most_trials

    finished = [trial for trial in trials if trial.state != "running"]
    text = f"{len(finished)} of {most_trials([study])} finished"
    workers = sum(trial.owner is not None for trial in trials)
    seconds = [record["seconds"] for trial in trials for record in trial.curve]
    if not workers:
        return f"{text}; nobody works on it"
    if not finished or not seconds:
        return f"{text}; {workers} at work"
    spent = sum(len(trial.curve) for trial in finished)
    whole = min(study.budget * spent / len(finished), study.total_epochs or math.inf)
    epochs = max(0.0, whole - sum(len(trial.curve) for trial in trials))
    left = clock_time(epochs * sum(seconds) / len(seconds) / workers)
    return f"{text}; {workers} at work, about {left} left"


def _epochs(trial: Trial, current: Study | None) -> str:
    of = f" of {current.epochs}" if current else ""
    pace = f", {trial.curve[-1]['seconds']:.1f} s an epoch" if trial.curve else ""
    return f"{len(trial.curve)}{of} epochs done{pace}"


def _holder(trial: Trial, now: float) -> str:
    from pipeline.study.ledger import LEASE_SECONDS

    if trial.owner is None:
        return "held by nobody: it goes on with the next worker"
    host, pid, _ = trial.owner.split("/")
    age = now - (trial.expires - LEASE_SECONDS)
    over = "" if now < trial.expires else ": its worker is gone, the next one takes it over"
    return f"held by process {pid} on {host}, renewed {age:.0f} s ago{over}"


def _disk(paths: Paths, study: str) -> str:
    return f"  disk: {_size([paths.study(study)])} of checkpoints, weights and logs"


def _size(folders: Iterable[Path]) -> str:
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return f"{sum(path.stat().st_size for path in files) / 1e6:.1f} MB"
