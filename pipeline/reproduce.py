"""Trains one trial again, alone, and compares it with its record epoch by epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config import load_space
from pipeline.errors import UserError
from pipeline.machine import Machine
from pipeline.paths import Paths, read_json
from pipeline.study.identity import Study, search_study
from pipeline.study.ledger import Ledger, Trial, storage_url
from pipeline.trainer import Trainer, save_run

TIMES = ("seconds", "core_seconds", "ended_ms")  # what differs between any two runs


def reproduce_trial(root: Path, machine: Machine, name: str, number: int) -> str:
    """Says whether a trial's record is identical when it is trained again.

    Nothing is written. Raises UserError if there is no such trial.
    """
    space, paths = load_space(root, name), Paths(root, name)
    manifest = paths.prepare / "manifest.json"
    if not manifest.exists():
        raise UserError(f"reproduce {name}: no data: run `python -m pipeline prepare {name}` first")
    study = search_study(space, read_json(manifest)["sha256"])
    ledger = Ledger(storage_url(machine, paths))
    trials = ledger.trials(study.id)
    found = next((trial for trial in trials if trial.number == number and trial.curve), None)
    if found is None or found.parameters is None:
        raise UserError(
            f"reproduce {name}: study {study.id} has {len(trials)} trials, and {number} is none"
            " with a finished epoch: choose another number"
        )
    training = Trainer(space, paths, machine.device).new_training(study, number, found.parameters)
    for _ in found.curve:
        training.run_epoch()
    same = f"trial {number} is identical in all {len(training.records)} epochs"
    return difference(found, training.records) or same


def make_weights(trainer: Trainer, study: Study, run: Trial, folder: Path) -> None:
    """Trains a candidate's run again, whose weights are gone, and writes them.

    Raises UserError if it comes out otherwise than it is recorded.
    """
    assert run.parameters is not None
    training = trainer.new_training(study, run.number, run.parameters)
    for _ in run.curve:
        training.run_epoch()
    if other := difference(run, training.records):
        raise UserError(
            f"the weights {folder}/*.safetensors are gone and cannot be made again here: {other}:"
            f" copy the folder from host {run.meta.get('host')}"
        )
    save_run(folder, training)


def difference(trial: Trial, records: list[dict[str, Any]]) -> str | None:
    """Where the record of a trial and that of its repetition differ first, if they do."""
    for before, after in zip(trial.curve, records, strict=True):
        for key in after:
            if key not in TIMES and before.get(key) != after[key]:
                return (
                    f"trial {trial.number} differs first in epoch {after['epoch']}: {key} was"
                    f" {before.get(key)} and is {after[key]} (another processor or torch?)"
                )
    return None
