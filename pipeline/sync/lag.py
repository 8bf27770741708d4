"""How far MLflow is behind a sweep, told from the mirror's cursor.

Of a store in SQLite it is looked up whether it still is the one that the cursor speaks of; a server
is not asked, so of one it is only said what was sent.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from pipeline.paths import Paths
from pipeline.settings.machine import Machine
from pipeline.settings.space import Space
from pipeline.study.storage.ledger import Ledger
from pipeline.study.storage.rows import Mark
from pipeline.sync.mlflow_runs import Sweep
from pipeline.tracking.cursor import Log, Sent, load_cursor
from pipeline.tracking.moved import came_along
from pipeline.tracking.store import Store, sqlite_file, store_of


def lag_line(root: Path, space: Space, machine: Machine, ledger: Ledger) -> str:
    """What of a sweep is not in MLflow yet; empty if tracking is off or nothing has run."""
    if machine.tracking == "none":
        return ""
    paths = Paths(root, space.name)
    sweep = Sweep(space, paths, ledger)
    marks = sweep.marks()
    if not marks:
        return ""
    store = store_of(machine, paths)
    db = sqlite_file(store.uri)
    if db and (elsewhere := _elsewhere(db, space.name, store)):
        return elsewhere
    sent = sent_runs(store, space.name)
    lacks, epochs = behind(marks, sent)
    # Who said that a run is at work may have been killed with it.
    keys = {*marks, *map(sweep.key, sweep.studies)} & sent.keys()
    lacks |= {key for key in keys if sent[key].status == "RUNNING" and not sent[key].deleted}
    if not lacks:
        if db:
            return f"MLflow has all {len(marks)} runs of {space.name}'s present settings"
        return (
            f"MLflow was sent all {len(marks)} runs of {space.name}'s present settings (the server"
            " is not asked)"
        )
    return (
        f"MLflow lacks {epochs} epochs, {len(lacks)} of {len(marks.keys() | lacks)} runs of"
        f" {space.name} are not up to date: `python -m pipeline sync {space.name}`, unless the"
        " sweep is running"
    )


def sent_runs(store: Store, name: str) -> dict[str, Sent]:
    """What the store is known to hold of a sweep, by the key of its run."""
    log, db = load_cursor(store.cursor).get(name), sqlite_file(store.uri)
    return log.runs if log and (db is None or _is_there(db, log)) else {}


def _elsewhere(db: Path, name: str, store: Store) -> str:
    """What is to be done where the files of the store are elsewhere: then `sync` refuses it."""
    found = _looked_up(db, "SELECT artifact_location FROM experiments WHERE name = ?", name)
    if found is None or store.artifacts is None or came_along(store, name, found[0]):
        return ""
    if found[0] == (store.artifacts / name).as_uri():
        return ""
    return (
        f"MLflow keeps the files of {name} in {found[0]}, where this checkout was: move it back, or"
        f" move {db} away and give `python -m pipeline sync`, which builds it anew"
    )


def _is_there(db: Path, log: Log) -> bool:
    """Whether the experiment that runs were sent to is still in the store."""
    query = "SELECT creation_time FROM experiments WHERE experiment_id = ? AND lifecycle_stage = ?"
    found = _looked_up(db, query, int(log.experiment_id), "active")
    return found is not None and (found[0] or 0) == log.created_ms


def _looked_up(db: Path, query: str, *values: str | int) -> tuple[Any, ...] | None:
    """The first row; none of a store that was deleted, or is something else by now."""
    try:
        with closing(sqlite3.connect(f"{db.as_uri()}?mode=ro", uri=True)) as store:
            row: tuple[Any, ...] | None = store.execute(query, values).fetchone()
    except sqlite3.Error:
        return None
    return row


def behind(marks: dict[str, Mark], sent: dict[str, Sent]) -> tuple[set[str], int]:
    """Which runs have moved since they were sent, and how many epochs these have gained."""
    known = {key: sent[key].mark for key in marks if key in sent}
    moved = {key: mark for key, mark in marks.items() if known.get(key) != list(mark)}
    epochs = sum(max(mark[2] - (known.get(key) or (0, "", 0))[2], 0) for key, mark in moved.items())
    return set(moved), epochs
