"""A worker's view of the Slurm task that it runs in: its name, those before it, the GPU granted."""

from __future__ import annotations

import os

from pipeline.errors import UserError
from pipeline.study.storage.ledger import Ledger
from pipeline.study.storage.workers import send_away, workers
from pipeline.work.causes import CRASHES

TASK = "PIPELINE_TASK"  # of a worker's environment: the script's, which has one at a time


def task_id() -> str | None:
    """This process's Slurm job, JOB or JOB_TASK; None outside of Slurm."""
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")


def release_predecessors(ledger: Ledger, sweep: str, task: str, after: int | None) -> None:
    """Frees what earlier workers of this task hold, if our job script has started this one: it has
    never two at work. In a job of somebody's own there may be many, beside each other.

    `after` is how the last one ended, if the job script has seen it: a crash is a strike against
    the trial. A task that was requeued may have a zombie on a lost node, which is told to leave.
    """
    if os.environ.get(TASK) != task:
        return
    crashed = after is not None and after - 128 in CRASHES
    for row in workers(ledger, sweep):
        if row.slurm == task and row.code is None:
            send_away(ledger, row.owner)
            ledger.release(row.owner, blameless=not crashed)


def granted_device(device: str) -> str:
    """What a worker may compute on: under Slurm only a GPU that it has granted.

    Raises UserError for one that was asked for and is not granted.
    """
    if task_id() is None or os.environ.get("CUDA_VISIBLE_DEVICES"):
        return device
    if device == "auto":
        return "cpu"
    if device.startswith("cuda"):
        raise UserError(
            f"device {device} is asked for, but Slurm has granted no GPU (CUDA_VISIBLE_DEVICES is"
            " not set): set `slurm.gres` in machine.yaml, such as gpu:1, or `device: cpu`"
        )
    return device
