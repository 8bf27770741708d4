"""Worker processes on this host that are started again when they die, and die with their parent."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError

WRONG_INPUT = 2
MAX_DEATHS_IN_A_ROW = 5


class WorkersKeepDying(Exception):
    """Every new worker died at once; the message holds the end of its log."""


@dataclass
class _Slot:
    index: int
    process: subprocess.Popen[bytes]
    log: Path


class Pool:
    """`count` processes of one command, whose last argument is the number of the slot."""

    def __init__(
        self,
        arguments: list[str],
        count: int,
        logs: Path,
        environment: dict[str, str],
        on_death: Callable[[int, bool], bool],
        progress: Callable[[], object],
    ):
        """`on_death(pid, killed)` is called for a worker that died unasked, by a signal or not, and
        says whether a trial takes the blame. The other deaths count as in a row while `progress()`
        keeps its value from one to the next."""
        self._arguments = [sys.executable, "-m", "pipeline", *arguments]
        self._environment = environment
        self._on_death = on_death
        self._progress = progress
        self._deaths = 0
        self._seen: object = None
        self._stopping = False
        logs.mkdir(parents=True, exist_ok=True)
        self._slots = [self._start(index, logs / f"worker-{index}.log") for index in range(count)]

    def poll(self) -> int:
        """Replaces the dead; how many are still at work.

        Raises WorkersKeepDying, or UserError if a worker found the input wrong.
        """
        alive = 0
        for slot in self._slots:
            code = slot.process.poll()
            if code is None:
                alive += 1
            elif code != 0 and not self._stopping:
                self._replace(slot, code)
                alive += 1
        return alive

    def stop(self) -> None:
        """Asks all to finish their epoch and leave."""
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

    def _start(self, index: int, log: Path) -> _Slot:
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*self._arguments, str(index)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=self._environment,
                start_new_session=True,  # Ctrl-C on the terminal is the parent's to handle
            )
        return _Slot(index, process, log)

    def _replace(self, slot: _Slot, code: int) -> None:
        if not self._on_death(slot.process.pid, code < 0):
            progress = self._progress()
            self._deaths = 1 if progress != self._seen else self._deaths + 1
            self._seen = progress
        tail = slot.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-15:]
        if code == WRONG_INPUT:
            last = tail[-1] if tail else f"a worker left without a word in {slot.log}: disk full?"
            raise UserError(last.removeprefix("error: "))
        if self._deaths > MAX_DEATHS_IN_A_ROW:
            raise WorkersKeepDying(
                f"{self._deaths} workers died in a row, the last with exit code {code}; the end of"
                f" {slot.log}:\n" + "\n".join(tail)
            )
        if slot.process.stdin:
            slot.process.stdin.close()
        self._slots[slot.index] = self._start(slot.index, slot.log)
