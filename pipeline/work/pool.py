"""Worker processes on this host that are started again when they die, and die with their parent.

A worker that fails for the machine's sake is started again after pauses that grow, for as long as
there is progress or `PATIENCE` lasts. One that lacks memory is started again alone: the others end
their epochs and leave, and come back when its trial has ended.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError
from pipeline.work.causes import CRASHES, MACHINE_FAILED, MOVES, NEEDS_ROOM, oom_kills

WRONG_INPUT = 2
MAX_DEATHS_IN_A_ROW = 5
PATIENCE = 300.0  # seconds without any progress in which the machine may fail again and again
LONGEST_PAUSE = 60.0


class WorkersKeepDying(Exception):
    """Every new worker died at once; the message holds the end of its log."""


@dataclass
class _Slot:
    index: int
    process: subprocess.Popen[bytes]
    log: Path
    due: float | None = None  # when to start it again, by `time.monotonic`


class Pool:
    """`count` processes of one command, whose last argument is the number of the slot."""

    note = ""

    def __init__(
        self,
        arguments: list[str],
        count: int,
        root: Path,
        logs: Path,
        environment: dict[str, str],
        on_death: Callable[[int, bool], bool],
        progress: Callable[[], object],
        alone: Callable[[int], list[str]] = lambda _: [],
    ):
        """`root` is where they run. `on_death(pid, own)` is called for a worker that died unasked,
        by what is seen to be its own doing or not, and says whether a trial takes the blame. The
        other deaths count as in a row while `progress()` keeps its value from one to the next.
        `alone(index)` are further arguments for a worker that is started again alone: the trial
        that its slot was at."""
        self._arguments = [sys.executable, "-m", "pipeline", *arguments]
        self._size, self._root, self._logs = count, root, logs
        self._environment = environment
        self._on_death = on_death
        self._progress = progress
        self._alone_arguments = alone
        self._deaths = 0
        self._seen: object = None
        self._failures = 0  # of the machine, in a row
        self._since = 0.0  # when the first of them was
        self._moved: object = None  # what `progress()` was at it
        self._alone: _Slot | None = None  # who is started again when all others have left
        self._oom_kills = oom_kills()
        self._stopping = False
        self._slots: list[_Slot] = []

    def start(self) -> None:
        """Starts all."""
        self._logs.mkdir(parents=True, exist_ok=True)
        for index in range(self._size):
            log = self._logs / f"worker-{index}.log"
            self._slots.append(_Slot(index, self._spawn(index, log, []), log))

    def alive(self) -> int:
        """Replaces the dead; how many are still at work.

        Raises WorkersKeepDying, or UserError if a worker found the input wrong or the machine does
        not cease to fail.
        """
        return sum(self._is_at_work(slot) for slot in self._slots)

    def _is_at_work(self, slot: _Slot) -> bool:
        code = slot.process.poll()
        if code is None:
            return True
        if self._stopping:
            return False
        if slot.due is not None:
            if self._may_start(slot):
                self._restart(slot)
            return True
        if self._alone is slot and code == 0:  # its trial has ended: everyone comes back
            self._alone = None
            for each in self._slots:
                each.due = 0.0
            return True
        if self._alone not in (None, slot):
            self._on_death(slot.process.pid, False)  # in case it was not asked to leave
            slot.due = 0.0
            return True
        if code != 0:
            self._replace(slot, code)
        return code != 0

    def _may_start(self, slot: _Slot) -> bool:
        if self._alone is None:
            return slot.due is not None and time.monotonic() >= slot.due
        others = (each for each in self._slots if each is not slot)
        return (
            self._alone is slot
            and time.monotonic() >= (slot.due or 0.0)
            and all(other.process.poll() is not None for other in others)
        )

    def _restart(self, slot: _Slot) -> None:
        more = self._alone_arguments(slot.index) if self._alone is slot else []
        if slot.process.stdin:
            slot.process.stdin.close()
        slot.process, slot.due = self._spawn(slot.index, slot.log, more), None

    def stop(self) -> None:
        """Asks all to save and leave."""
        self._stopping = True
        for slot in self._slots:
            if slot.process.poll() is None:
                slot.process.terminate()

    def kill(self) -> None:
        """Ends all at once and waits for their end."""
        self._stopping = True
        for slot in self._slots:
            if slot.process.poll() is None:
                slot.process.kill()
            slot.process.wait()
            if slot.process.stdin:
                with contextlib.suppress(OSError):
                    slot.process.stdin.close()

    def _spawn(self, index: int, log: Path, more: list[str]) -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                [*self._arguments, *more, str(index)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd=self._root,
                env=self._environment,
                start_new_session=True,  # Ctrl-C on the terminal is the parent's to handle
            )

    def _replace(self, slot: _Slot, code: int) -> None:
        tail = slot.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-15:]
        last = tail[-1].removeprefix("error: ") if tail else ""
        if code == WRONG_INPUT:
            raise UserError(last or f"a worker left without a word in {slot.log}: disk full?")
        out_of_memory = code == NEEDS_ROOM or (code == -signal.SIGKILL and self._kernel_killed())
        own = -code in CRASHES or (code < 0 and out_of_memory and self._alone is slot)
        blamed = self._on_death(slot.process.pid, own)
        if code == MOVES:
            self._restart(slot)
        elif out_of_memory and self._alone is None:
            self._make_room(slot)
        elif code in (MACHINE_FAILED, NEEDS_ROOM) or (code < 0 and not own):
            self._pause(slot, last if code > 0 else f"a worker was ended by signal {-code}")
        else:
            self._count(slot, code, tail, blamed)

    def _kernel_killed(self) -> bool:
        """Whether the kernel has killed anyone for want of memory since the last look."""
        before, self._oom_kills = self._oom_kills, oom_kills()
        return self._oom_kills > before

    def _make_room(self, slot: _Slot) -> None:
        self._alone, slot.due = slot, 0.0
        for other in self._slots:
            if other is not slot and other.process.poll() is None:
                other.process.terminate()

    def _pause(self, slot: _Slot, why: str) -> None:
        """Starts a worker again at once, then after pauses that grow. Raises UserError."""
        now, moved = time.monotonic(), self._progress()
        if not self._failures or moved != self._moved:
            self._failures, self._since, self._moved = 0, now, moved
        elif now - self._since > PATIENCE:
            raise UserError(
                f"this machine has failed {self._failures + 1} times without any progress, last:"
                f" {why}: mend that, then the same command goes on"
            )
        slot.due = now + min(2.0**self._failures - 1, LONGEST_PAUSE)
        self._failures += 1

    def _count(self, slot: _Slot, code: int, tail: list[str], blamed: bool) -> None:
        """Starts a worker again that died of its own. Raises WorkersKeepDying."""
        if not blamed:
            progress = self._progress()
            self._deaths = 1 if progress != self._seen else self._deaths + 1
            self._seen = progress
        if self._deaths > MAX_DEATHS_IN_A_ROW:
            raise WorkersKeepDying(
                f"{self._deaths} workers died in a row, the last with exit code {code}; the end of"
                f" {slot.log}:\n" + "\n".join(tail)
            )
        self._restart(slot)
