"""A training that is repeated, compared with its record epoch by epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.results.keys import TIMES
from pipeline.results.states import State
from pipeline.study.identity import Study
from pipeline.study.storage.arithmetic import difference as unlike
from pipeline.study.storage.rows import Trial
from pipeline.work.trainings import Trainer, TrialFailed, outcome

if TYPE_CHECKING:
    from pipeline.vae.training import Training


def train_again(trainer: Trainer, study: Study, trial: Trial) -> str:
    """Says in how many epochs a trial comes out as recorded, or where it differs."""
    assert trial.parameters is not None
    seed = trial.kept["seed"] if trial.kept else None
    training = trainer.new_training(study, trial.number, trial.parameters, seed)
    if other := _other_epoch(trainer, trial, training) or _other_end(trainer, trial, training):
        return f"{other}{elsewhere(trial, trainer.device)}"
    came_out = outcome(training)
    stated = trial.result or {}  # of a run that was dropped, without its number of weights
    if any(stated.get(key, value) != value for key, value in came_out.items()):
        return f"trial {trial.number} differs in its result, which is {came_out}"
    paused = ", after which it is paused" if trial.state == State.PAUSED else ""
    return f"trial {trial.number} is identical in all {len(trial.curve)} epochs{paused}"


def _other_epoch(trainer: Trainer, trial: Trial, training: Training) -> str | None:
    """Which of the epochs does not come out as recorded."""
    try:
        for _ in trial.curve:
            with trainer.failures():
                training.run_epoch()
    except TrialFailed as error:
        return (
            f"trial {trial.number} differs first in epoch {len(training.records) + 1}: it fails"
            f" ({str(error).splitlines()[0]}), but was recorded"
        )
    return difference(trial, training.records)


def _other_end(trainer: Trainer, trial: Trial, training: Training) -> str | None:
    """What does not fit of how a trial ended, whose epochs are all as recorded.

    A failure comes in the next epoch or at the gate; a crash that took its workers with it, or a
    lack of memory, does not come again.
    """
    if trial.state == State.PAUSED and training.finished:
        return (
            f"trial {trial.number} differs in its end: epoch {len(trial.curve)} is its last, but it"
            " was recorded as paused"
        )
    killed = (trial.reason or "").startswith(("killed", "too large"))
    if trial.state not in (State.COMPLETE, State.FAILED) or killed:
        return None
    try:
        if training.finished:
            trainer.judge(training)
        else:
            with trainer.failures():
                training.run_epoch()
    except TrialFailed as error:
        if trial.state == State.FAILED:
            return None
        said = str(error).splitlines()[0]
        return f"trial {trial.number} differs in its end: it fails ({said}), but was complete"
    if trial.state == State.COMPLETE:
        return None
    return (
        f"trial {trial.number} differs in its end: it goes on after epoch {len(trial.curve)}, but"
        f" was recorded as failed ({(trial.reason or '').splitlines()[0]})"
    )


def difference(trial: Trial, records: list[dict[str, Any]]) -> str | None:
    """Where the record of a trial and that of its repetition differ first, if they do."""
    for before, after in zip(trial.curve, records, strict=True):
        for key in after:
            if key not in TIMES and before.get(key) != after[key]:
                return (
                    f"trial {trial.number} differs first in epoch {after['epoch']}: {key} was"
                    f" {before.get(key)} and is {after[key]}"
                )
    return None


def elsewhere(trial: Trial, device: str) -> str:
    """What to add to a difference that the machine may have made, and not whoever wrote it down."""
    from pipeline.vae.process import arithmetic

    recorded = trial.meta.get("arithmetic")
    if recorded is None:
        return " (it was recorded without its arithmetic: another processor or torch?)"
    other = unlike(recorded, arithmetic(device))
    return f" (this machine computes otherwise than its record: {other})" if other else ""
