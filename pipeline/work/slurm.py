"""Workers as an array of Slurm jobs: submitted, found again, watched, ended.

The job script is `worker.sbatch`, beside this file. All that is asked of Slurm is asked through
sbatch, squeue, scontrol and scancel; who ends what is in the storage, where each worker has a row.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import UserError
from pipeline.seeds import digest
from pipeline.settings.machine import Machine
from pipeline.settings.machine import Slurm as Settings
from pipeline.study.storage.ledger import LEASE_SECONDS, Ledger
from pipeline.study.storage.workers import CANCEL, Present, send_away, workers
from pipeline.work.job import Job
from pipeline.work.pool import WRONG_INPUT, WorkersKeepDying

SCRIPT = Path(__file__).with_name("worker.sbatch")
LOOK_SECONDS = 5.0  # between two questions to the controller
ANSWER_SECONDS = 60.0
NO_CHECKOUT = 78  # of the script
OVER = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
        "TIMEOUT"}  # fmt: skip
WELL = {"CANCELLED", "COMPLETED"}
COMPLETING = "COMPLETING"  # over, or about to be requeued


@dataclass(frozen=True)
class Task:
    """A task of an array, as squeue shows it."""

    index: str
    state: str
    reason: str  # of its waiting
    node: str


@dataclass
class Array:
    """`count` workers on a job, each a task of one array; an array that is there goes on."""

    job: Job
    machine: Machine
    root: Path
    ledger: Ledger
    count: int
    is_over: Callable[[], bool]  # whether nothing is left to do
    note: str = ""  # how the tasks are, for people
    _id: str = ""
    _alive: int = 0
    _asked: float = field(default=-LOOK_SECONDS)
    _ends: bool = False  # whether it was found on its way out: then another one follows it
    _ending: dict[str, float] = field(default_factory=dict)  # tasks that are, since when

    @property
    def _settings(self) -> Settings:
        assert self.machine.slurm
        return self.machine.slurm

    def start(self) -> None:
        """Finds the job's array at work or submits one. Raises UserError."""
        arrays = _arrays(self.job.id, self.ledger)
        self._id = arrays[-1] if arrays else self._submit()
        self._ends = bool(arrays) and not self._goes_on(self._tasks())
        self._alive = self.count

    def alive(self) -> int:
        """How many tasks are at work or wait for their turn.

        Raises UserError if a worker found the input wrong; WorkersKeepDying when all have left,
        some for another reason, and work is left.
        """
        if time.monotonic() - self._asked < LOOK_SECONDS:
            return self._alive
        try:
            tasks = self._tasks()
        except UserError as error:  # the controller is away; the workers are not
            self.note, self._asked = str(error), time.monotonic()
            return self._alive
        self._alive = sum(task.state not in OVER for task in tasks)
        self.note = f"Slurm job {self._id}: {_summary(tasks)}"
        self._send_zombies_away({task.index for task in tasks if not self._is_lost(task)})
        self._ends = self._ends and not self._goes_on(tasks)
        if self._ends and not self._alive:
            self._id, self._ends, self._alive = self._submit(), False, self.count
        elif not self._ends:
            self._look_at_failures([task for task in tasks if task.state in OVER - WELL])
        self._asked = time.monotonic()
        return self._alive

    def stop(self) -> None:
        """Asks all to finish their epoch and leave for good."""
        self._ends = False
        self._cancel("--state=PENDING")
        self._cancel("--batch", f"--signal={signal.SIGUSR2.name.removeprefix('SIG')}")
        self._asked = -LOOK_SECONDS

    def kill(self) -> None:
        """Ends all for good: they have Slurm's KillWait to save what they have."""
        self._cancel()

    def _cancel(self, *how: str) -> None:
        if self._id:
            _ask("scancel", *how, self._id)

    def _goes_on(self, tasks: list[Task]) -> bool:
        """Whether not all of them are about to leave for good, as after `cancel` or scancel."""
        last = {row.slurm: row for row in self._rows()}
        told = {task for task, row in last.items() if row.code is None and row.wish == CANCEL}
        return any(
            task.state == "PENDING" or f"{self._id}_{task.index}" not in told
            for task in tasks
            if task.state not in OVER | {COMPLETING}
        )

    def _is_lost(self, task: Task) -> bool:
        """Whether the task is over, or ends for so long that its node may be out of reach."""
        since = self._ending.setdefault(task.index, time.monotonic())
        if task.state != COMPLETING:
            del self._ending[task.index]
        return task.state in OVER or time.monotonic() - since > LEASE_SECONDS / 3

    def _submit(self) -> str:
        settings, program = self._settings, Path(sys.executable)
        if program.is_relative_to(self.root):  # the node's own, where no folder is shared
            program = program.relative_to(self.root)
        device = self.machine.device
        if device == "auto":
            device = "cuda" if settings.asks_for_gpu else "cpu"
        environment = {
            **os.environ,
            "PIPELINE_PYTHON": settings.python or str(program),
            "PIPELINE_STORAGE": self.machine.storage or "",
            "PIPELINE_DEVICE": device,
        }
        name = _name(self.job.id, self.ledger)
        options = [f"--array=0-{self.count - 1}", f"--job-name={name}", "--parsable",
                   f"--signal=B:USR1@{settings.notice}", *settings.sbatch]  # fmt: skip
        checkout = settings.checkout or str(self.root)
        answer = _slurm("sbatch", *options, str(SCRIPT), self.job.id, checkout, env=environment)
        return answer.partition(";")[0]

    def _tasks(self) -> list[Task]:
        fields = "%K|%T|%r|%N"
        done = _ask("squeue", "-h", "-r", "-t", "all", "-j", self._id, "-o", fields)
        if done.returncode:
            if "Invalid job id" in done.stderr:  # over for so long that Slurm has forgotten it
                return []
            raise UserError(f"Slurm does not answer: {_last(done.stderr)}")
        return [Task(*line.split("|")) for line in done.stdout.splitlines()]

    def _rows(self) -> list[Present]:
        prefix = f"{self._id}_"
        rows = workers(self.ledger, self.job.space.name)
        return [row for row in rows if (row.slurm or "").startswith(prefix)]

    def _send_zombies_away(self, alive: set[str]) -> None:
        """Whose job is over may live on where Slurm lost sight of it: it is told by the storage,
        and what it holds is free at once."""
        for row in self._rows():
            index = (row.slurm or "").rpartition("_")[2]
            if row.code is None and row.wish is None and index not in alive:
                send_away(self.ledger, row.owner)
                self.ledger.release(row.owner, blameless=True)

    def _look_at_failures(self, failed: list[Task]) -> None:
        for task in failed:
            code = self._exit_code(task)
            if code == WRONG_INPUT:
                said = (row.said for row in self._rows() if row.said)
                raise UserError(next(said, f"a worker found its input wrong: see {_log(task)}"))
            if code == NO_CHECKOUT:
                raise UserError(
                    f"node {task.node} has no checkout in"
                    f" {self._settings.checkout or self.root}: set `slurm.checkout` in machine.yaml"
                )
        if failed and not self._alive and not self.is_over():
            last = failed[-1]
            raise WorkersKeepDying(
                f"no worker of Slurm job {self._id} is left, the last one {last.state} with exit"
                f" code {self._exit_code(last)} on {last.node}: see {_log(last)} there"
            )

    def _exit_code(self, task: Task) -> int | None:
        words = _ask("scontrol", "-o", "show", "job", f"{self._id}_{task.index}").stdout.split()
        codes = [word for word in words if word.startswith("ExitCode=")]
        return int(codes[-1].removeprefix("ExitCode=").partition(":")[0]) if codes else None


def cancel_waiting(jobs: list[str], ledger: Ledger) -> None:
    """Takes back those workers of these jobs that Slurm has not started. Raises UserError."""
    for array in (array for job in jobs for array in _arrays(job, ledger)):
        _ask("scancel", "--state=PENDING", array)


def refusal(machine: Machine) -> str:
    """Why Slurm would not take a worker's job; empty if it would."""
    assert machine.slurm
    try:
        done = _ask("sbatch", "--test-only", *machine.slurm.sbatch, str(SCRIPT), "job")
    except UserError as error:
        return str(error)
    return _last(done.stderr) if done.returncode else ""


def _name(job: str, ledger: Ledger) -> str:
    """Of a job's arrays: another checkout's with another storage are not ours."""
    return f"{job}-{digest(ledger.address)[:6]}"


def _arrays(job: str, ledger: Ledger) -> list[str]:
    """Slurm's own numbers of a job's arrays. Raises UserError."""
    found = _slurm("squeue", "--me", "-h", "-n", _name(job, ledger), "-o", "%F")
    return sorted(set(found.split()), key=int)


def _summary(tasks: list[Task]) -> str:
    """How many are in which state, and why they wait."""
    kinds = Counter(
        f"{task.state.lower()} ({task.reason})" if task.state == "PENDING" else task.state.lower()
        for task in tasks
    )
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "over"


def _log(task: Task) -> str:
    return f"runs/state/slurm/*_{task.index}.log"


def _slurm(*command: str, env: dict[str, str] | None = None) -> str:
    """What a program of Slurm prints. Raises UserError."""
    done = _ask(*command, env=env)
    if done.returncode:
        raise UserError(
            f"{command[0]} refuses: {_last(done.stderr)}: correct `slurm` in machine.yaml"
        )
    return done.stdout.strip()


def _ask(*command: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS,
            start_new_session=True,  # Ctrl-C on the terminal is ours to handle
        )
    except FileNotFoundError:
        raise UserError(
            f"machine.yaml has `slurm`, but {command[0]} is not there: give the command where"
            " Slurm's programs are, or take `slurm` out"
        ) from None
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"{command[0]} hangs")


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["no word"])[-1].removeprefix("sbatch: error: ")
