"""What a trial may be, and what a study is of. The values are stored: they never change."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a trial is; see `pipeline.study.storage.transitions` for how it gets there."""

    RUNNING = "running"  # somebody holds it, or it waits for the next worker
    COMPLETE = "complete"
    PRUNED = "pruned"
    PAUSED = "paused"  # at a rung, from which it may be promoted
    FAILED = "failed"


FINISHED = (State.COMPLETE, State.PRUNED, State.PAUSED, State.FAILED)
RANKED = (State.COMPLETE, State.PAUSED)  # those whose value says what a setting is worth


class Kind(StrEnum):
    """What the trials of a study have in common."""

    SEARCH = "search"  # a space, from which their parameters are proposed
    CANDIDATE = "candidate"  # one setting, on several seeds
