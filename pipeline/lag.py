"""How far MLflow is behind a sweep, told from the mirror's cursor alone: MLflow is not asked."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import Space
from pipeline.machine import Machine
from pipeline.paths import Paths
from pipeline.records import Sweep
from pipeline.study.ledger import Ledger, Mark
from pipeline.tracking.cursor import Sent, load_cursor
from pipeline.tracking.store import store_of


def lag_line(root: Path, space: Space, machine: Machine, ledger: Ledger) -> str:
    """What of a sweep is not in MLflow yet; empty if tracking is off or nothing has run."""
    if machine.tracking == "none":
        return ""
    paths = Paths(root, space.name)
    marks = Sweep(space, paths, ledger).marks()
    if not marks:
        return ""
    log = load_cursor(store_of(machine, paths)[2]).get(space.name)
    runs, epochs = behind(marks, log.runs if log else {})
    if not runs:
        return f"MLflow has all {len(marks)} runs of {space.name}"
    return (
        f"MLflow lacks {epochs} epochs, {runs} of {len(marks)} runs of {space.name} are not up to"
        f" date: `python -m pipeline sync {space.name}`, unless the sweep is running"
    )


def behind(marks: dict[str, Mark], sent: dict[str, Sent]) -> tuple[int, int]:
    """How many runs have moved since they were sent, and how many epochs these have gained."""
    known = {key: sent[key].mark for key in marks if key in sent}
    moved = {key: mark for key, mark in marks.items() if known.get(key) != list(mark)}
    epochs = sum(max(mark[2] - (known.get(key) or (0, "", 0))[2], 0) for key, mark in moved.items())
    return len(moved), epochs
