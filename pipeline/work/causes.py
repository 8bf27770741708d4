"""Whose doing a failure is, and what becomes of it.

The *model's own* is a result, and its trial fails: its loss diverged, it is no better than the mean
image, its code has a bug, it is too large for an empty device, or it crashes its process in the
same epoch again and again. The *machine's* is none: memory that others have taken, errors of a
device, of files or of a mount, kills and preemptions however often. The worker leaves, another one
goes on, and what does not end is said in one line.
"""

from __future__ import annotations

import signal
import sys
from enum import Enum
from pathlib import Path

from pipeline.errors import NO_SPACE, NOT_ALLOWED

MACHINE_FAILED, NEEDS_ROOM, MOVES = 71, 72, 73  # exit codes of a worker
# What a process does to itself. SIGBUS is not among them: it comes from a mount that is gone.
CRASHES = {signal.SIGSEGV, signal.SIGILL, signal.SIGABRT, signal.SIGFPE}
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")
DEVICE = ("CUDA error", "CUDA driver", "cuDNN error", "CUDNN_STATUS", "CUBLAS_STATUS",
          "CUSOLVER_STATUS", "MPS backend", "ECC error")  # fmt: skip
# What a device says of a mistake in what it was told, whichever device it is.
BUGS = ("device-side assert", "invalid argument", "invalid configuration", "INVALID_VALUE",
        "BAD_PARAM", "NOT_SUPPORTED")  # fmt: skip
EMPTY = {"cpu": 0.5, "cuda": 0.9}  # the part of its memory that is free on an empty device


class Cause(Enum):
    """Who a failure is laid to."""

    MODEL = "the model"
    MEMORY = "the model or its neighbours"
    MACHINE = "the machine"


def cause(error: BaseException) -> Cause:
    """The table, for an error within a training. Diverged is the model's, as all unknown errors."""
    text = str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return Cause.MEMORY
    if isinstance(error, RuntimeError) and any(words in text for words in NO_MEMORY):
        return Cause.MEMORY
    if isinstance(error, OSError):
        return Cause.MACHINE
    device = type(error).__name__ == "AcceleratorError" or any(words in text for words in DEVICE)
    if isinstance(error, RuntimeError) and device and not any(words in text for words in BUGS):
        return Cause.MACHINE
    return Cause.MODEL


def exit_code(error: BaseException) -> int | None:
    """What a worker leaves with for the sake of another one; None: not for this error.

    A full or forbidden place is the same to the next one: a person has to see to it.
    """
    if isinstance(error, OSError) and error.errno in NO_SPACE + NOT_ALLOWED:
        return None
    return {Cause.MACHINE: MACHINE_FAILED, Cause.MEMORY: NEEDS_ROOM}.get(cause(error))


def has_room(device: str) -> bool:
    """Whether nobody else has taken a good part of a device's memory, before we take any."""
    if device.startswith("cuda"):
        import torch

        free, total = torch.cuda.mem_get_info(device)
        return free >= EMPTY["cuda"] * total
    import psutil

    memory = psutil.virtual_memory()
    return bool(memory.available >= EMPTY["cpu"] * memory.total)


def oom_kills() -> int:
    """How many processes the kernel has killed for want of memory; 0 where it does not tell."""
    if sys.platform != "linux":
        return 0
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
