"""GPUs of a shared box that nobody computes on: `device: idle`.

A card is idle if no other process computes on it, nearly all of its memory is free, and it does
next to nothing, in each of several looks. A process has one card, to which CUDA binds it, and a
lock on the card's UUID, so that no two of ours choose the same. Workers look again before each
part: when a neighbour has come they leave, and the one after them looks for a card anew.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from types import ModuleType
from typing import Any

from pipeline.errors import OutOfTime, UserError
from pipeline.settings import deadline
from pipeline.settings.machine import Machine

IDLE = "idle"  # the device
VISIBLE = "CUDA_VISIBLE_DEVICES"
FREE, BUSY_PERCENT = 0.9, 10  # of the memory, at least; of the time, at most
LOOKS, LOOK_SECONDS = 5, 0.3
WAIT_SECONDS = 2.0  # before all cards are looked at again


@dataclass(frozen=True)
class Card:
    """A GPU as NVML knows it."""

    index: int
    uuid: str
    handle: Any


@dataclass
class Own:
    """This process's card, and its lock."""

    card: Card | None = None
    lock: socket.socket | None = None


own = Own()


def granted(
    device: str, stop: Callable[[], bool] = lambda: False, until: datetime | None = None
) -> str:
    """The device for PyTorch: for `idle` that of the card that this process then has.

    One is waited for until `stop()`, then it is `idle` still. Raises UserError where there is none
    that could become idle; OutOfTime where none is and it is later than `until`.
    """
    said = own.lock is not None
    while device == IDLE and own.lock is None and not stop():
        why = [f"{card.index}: {_take(card)}" for card in _choice() if own.lock is None]
        if own.lock is None:
            if until and deadline.now() >= until:
                raise OutOfTime(
                    f"no GPU is idle ({', '.join(why)}) by {deadline.shown(until)}, the time limit:"
                    " nothing is lost, the same command goes on"
                )
            if not said:
                print(f"waits for an idle GPU ({', '.join(why)})", file=sys.stderr, flush=True)
            said = True
            time.sleep(WAIT_SECONDS)
    return "cuda" if device == IDLE and own.lock else device


def check_device(machine: Machine) -> None:
    """Raises UserError for a device that is not there; nodes of Slurm have their own.

    CUDA does not begin here: the command would hold memory of a card while its workers compute.
    """
    kind, _, index = machine.device.partition(":")
    if machine.slurm:
        return
    if kind == IDLE:
        cards()
    elif kind == "cuda":
        import torch

        from pipeline.vae.process import resolve_device

        if int(index or 0) >= torch.cuda.device_count():
            resolve_device(machine.device)  # says why


def leave() -> None:
    """Gives the lock up until `granted` is asked again: workers of this process may take it."""
    if own.lock:
        import torch

        torch.cuda.empty_cache()
        own.lock.close()
        own.lock = None


def neighbour() -> str:
    """Who else computes on the card that this process was granted, or what is wrong with it;
    empty: nobody, or it was granted none."""
    if own.card is None:
        return ""
    try:
        return _others(own.card)
    except _nvml().NVMLError as error:
        return str(error)


def cards() -> list[Card]:
    """The GPUs that this process may use. Raises UserError if there is none."""
    if "SLURM_JOB_ID" in os.environ:
        raise UserError(f"device {IDLE} is for boxes without Slurm, which grants GPUs: use auto")
    nvml = _nvml()
    found, why = [], "there is none"
    try:
        nvml.nvmlInit()
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError as error:
        count, why = 0, f"there is none ({error})"
    for index in range(count):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            card = Card(index, nvml.nvmlDeviceGetUUID(handle), handle)
            split = _is_split(handle)
        except nvml.NVMLError as error:  # it has fallen off the bus
            why = f"of {index} it is said: {error}"
            continue
        if not _is_visible(card):
            why = f"{VISIBLE} does not name it"
        elif split:
            why = f"{index} is split by MIG (name a part in {VISIBLE}, and use cuda)"
        else:
            found.append(card)
    if not found:
        raise _refusal(why)
    return found


def _refusal(why: str) -> UserError:
    return UserError(f"device {IDLE}: a GPU is asked for, but {why}: see `nvidia-smi`, or `device`")


def _nvml() -> ModuleType:
    try:
        import pynvml
    except ImportError:
        raise UserError(
            f"device {IDLE} looks at GPUs by nvidia-ml-py, which is not installed:"
            " `.venv/bin/uv pip install nvidia-ml-py`"
        ) from None
    return pynvml  # type: ignore[no-any-return]


def _is_split(handle: Any) -> bool:
    try:
        return bool(_nvml().nvmlDeviceGetMigMode(handle)[0])
    except _nvml().NVMLError_NotSupported:  # of most cards
        return False


def _is_visible(card: Card) -> bool:
    named = os.environ.get(VISIBLE)
    words = [word.strip() for word in (named or "").split(",")]
    return named is None or str(card.index) in words or card.uuid in words


def _choice() -> list[Card]:
    return [own.card] if own.card else cards()


def _take(card: Card) -> str:
    """Takes a card if it is idle; else why it is not."""
    lock = socket.socket(socket.AF_UNIX)
    try:
        lock.bind(f"\0vae-pipeline-{card.uuid}")  # a name without a file, for all users of the box
    except OSError:
        lock.close()
        return "another worker has it"
    if why := _busy(card):
        lock.close()
        return why
    if own.card is None:
        _bind(card)
    own.card, own.lock = card, lock
    return ""


def _bind(card: Card) -> None:
    """Has CUDA begin, which reads its environment once; workers of this process read their own."""
    import torch

    before = os.environ.get(VISIBLE)
    os.environ[VISIBLE] = card.uuid
    try:
        torch.cuda.init()
        torch.cuda.device_count()
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch without CUDA
        raise _refusal(str(error).splitlines()[0]) from None
    finally:
        os.environ.pop(VISIBLE) if before is None else os.environ.update({VISIBLE: before})


def _busy(card: Card) -> str:
    """Why a card is not idle. Our command's share of its memory does not count."""
    nvml = _nvml()
    try:
        for look in range(LOOKS):
            time.sleep(LOOK_SECONDS * bool(look))
            if others := _others(card):
                return others
            memory = nvml.nvmlDeviceGetMemoryInfo(card.handle)
            ours = sum(each.usedGpuMemory or 0 for each in _processes(card) if _is_ours(each))
            if memory.total - (taken := memory.used - ours) < FREE * memory.total:
                return f"{taken / 1e9:.1f} of {memory.total / 1e9:.1f} GB are taken"
            if (share := nvml.nvmlDeviceGetUtilizationRates(card.handle).gpu) > BUSY_PERCENT:
                return f"{share} % busy"
    except nvml.NVMLError as error:
        return str(error)
    return ""


def _others(card: Card) -> str:
    """Others who compute on a card. In a container NVML may number processes as the host does: who
    does not find itself on its own card cannot tell who is another."""
    there = _processes(card)
    if own.card and own.card.uuid == card.uuid and os.getpid() not in [each.pid for each in there]:
        return ""
    others = [str(each.pid) for each in there if not _is_ours(each)]
    return f"process {', '.join(others)} computes on it" if others else ""


def _processes(card: Card) -> list[Any]:
    return list(_nvml().nvmlDeviceGetComputeRunningProcesses(card.handle))


def _is_ours(process: Any) -> bool:
    """This process, or the command that started it and keeps what it once took."""
    return process.pid in (os.getpid(), os.getppid())
