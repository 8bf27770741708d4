"""Runs worker processes over studies until all trials are finished: lock, processes, progress."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import Interrupted, OutOfTime, UserError
from pipeline.paths import Paths
from pipeline.results.states import Kind, State
from pipeline.settings.hyperparameters import Value
from pipeline.settings.machine import Machine, cores
from pipeline.settings.space import Space
from pipeline.study.confirmation.race import FIRST_SEEDS
from pipeline.study.identity import Study
from pipeline.study.storage.ledger import Ledger, storage_url
from pipeline.study.storage.outages import StorageAway
from pipeline.study.storage.workers import CANCEL, PAUSE, wished
from pipeline.study.watch import Stage, most_trials, races
from pipeline.work.cards import IDLE, cards, leave
from pipeline.work.checkpoints import clear_finished
from pipeline.work.job import Job
from pipeline.work.launcher import Launcher
from pipeline.work.lineage import lineage
from pipeline.work.owners import POLL_SECONDS, await_orphans, bury, release_the_dead
from pipeline.work.pool import Pool, WorkersKeepDying
from pipeline.work.progress import Progress
from pipeline.work.slurm import Array
from pipeline.work.stopping import Stop, stop_requests
from pipeline.work.worker import work_note

LOCK_SECONDS = 20.0
LEAVE_SECONDS = 10.0  # workers leave by themselves when all trials are finished
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # of a worker


@dataclass(frozen=True)
class Crew:
    """Workers on some studies, until every trial is finished."""

    stage: str
    space: Space
    machine: Machine
    paths: Paths
    ledger: Ledger
    studies: list[Study]
    candidates: dict[str, dict[str, Value]] = field(default_factory=dict)  # see `Job`
    late: Callable[[], bool] | None = None  # whether its share of the time is used up
    news: Callable[[], Sequence[str]] = tuple  # what it says when it is its turn
    informing: Sequence[dict[str, Value]] = ()  # settings that a search tries early

    @property
    def folder(self) -> Path:
        return self.paths.study(self.studies[0].id)

    def work(self) -> None:
        """Raises UserError if another process works on them here; Interrupted on Ctrl-C, SIGTERM or
        SIGHUP; OutOfTime at `machine.until`, and once it is `late`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        title = f"{self.stage} {self.space.name}"
        requests = stop_requests(self.machine.until, self.late)
        with _only_one(self.folder / "lock", title), requests as stop:
            await_orphans(self.ledger, self.studies)
            release_the_dead(self.ledger)
            for line in self.news():
                print(line, file=sys.stderr, flush=True)
            if not self._is_over() and not stop.asked:
                self._run_workers(stop)
            if not stop.signals:
                self._clear_finished()
            if stop.signals or not self._is_over():
                kind = OutOfTime if stop.asked and not stop.signals else Interrupted
                raise kind(
                    f"{title}: {self._why(stop)} {self._so_far()}; nothing is lost: the same"
                    " command goes on"
                )

    def _why(self, stop: Stop) -> str:
        if self._leaves(stop):
            return "left; its workers go on,"
        with suppress(StorageAway):
            if not stop.asked and wished(self.ledger.impatient(), self.space.name) == CANCEL:
                return "cancelled"
        return stop.reason

    def _is_over(self) -> bool:
        return self._now(self.ledger).is_over

    def _now(self, ledger: Ledger) -> Stage:
        stage = Stage(ledger, self.studies, self.space)
        stage.refresh()
        return stage

    def _seems_over(self) -> bool:
        """The same by one look, and again and again; False while the storage is away."""
        with suppress(StorageAway):
            self._followed.refresh()
            return self._followed.is_over
        return False

    @cached_property
    def _followed(self) -> Stage:
        return Stage(self.ledger.impatient(), self.studies, self.space)

    def _run_workers(self, stop: Stop) -> None:
        _say_threads(f"{self.stage} {self.space.name}")
        launcher = self._launcher(self._keep_job())
        try:
            launcher.start()
            seen = self.ledger.impatient()  # it looks again soon, and hears signals meanwhile
            with Progress(self.stage, self.space, seen, self.studies) as progress:
                self._watch(launcher, stop, progress)
        except WorkersKeepDying as error:
            raise RuntimeError(str(error)) from None
        finally:
            if not self._leaves(stop):
                launcher.kill()
            with suppress(StorageAway):  # then their leases run out
                release_the_dead(self.ledger.impatient())

    def _watch(self, launcher: Launcher, stop: Stop, progress: Progress) -> None:
        """Until all workers have left, those apart that stand still when nothing is left to do; or
        until this command leaves them."""
        told, over, wish, due = False, False, "", time.monotonic() + LEAVE_SECONDS
        while launcher.alive():
            progress.update()
            if time.monotonic() > due:
                if over:
                    return
                (over, wish), due = self._look(), time.monotonic() + LEAVE_SECONDS
            if stop.asked and not told:
                if self._leaves(stop):
                    return
                progress.say("stopping after this step; once more to leave at once")
                launcher.stop()
                told = True
            if stop.urgent:
                return
            if not told:
                progress.say(wish or launcher.note)
            time.sleep(POLL_SECONDS)
        progress.update()

    def _leaves(self, stop: Stop) -> bool:
        """Whether the workers go on without this command: it comes back and finds them."""
        slurm = self.machine.slurm
        hung_up = stop.signals == [signal.SIGHUP]  # a closed terminal
        return slurm is not None and bool(stop.signals) and (slurm.outlives or hung_up)

    def _look(self) -> tuple[bool, str]:
        """Whether all is over, and what is wished of the workers."""
        with suppress(StorageAway):
            paused = wished(self.ledger.impatient(), self.space.name) == PAUSE
            goes_on = f"paused: `python -m pipeline resume {self.space.name}` goes on"
            return self._seems_over(), goes_on if paused else ""
        return False, ""

    def _keep_job(self) -> Job:
        job = Job(
            stage=self.stage,
            space=self.space,
            studies=self.studies,
            candidates=self.candidates,
            mixed_arithmetic=self.machine.mixed_arithmetic,
            shares=self.machine.storage is not None,
            informing=list(self.informing),
            lineage=lineage(self.paths.root, self.space),
        )
        job.keep(self.ledger)
        return job

    def _launcher(self, job: Job) -> Launcher:
        at_once = FIRST_SEEDS if races(self.space, self.studies) else None  # of a candidate's runs
        most = sum(at_once or study.parallelism for study in self.studies)
        if self.machine.slurm:
            count = min(self.machine.workers or most, most)
            root = self.paths.root
            return Array(job, self.machine, root, self.ledger, count, self._seems_over)
        count = cores()
        if self.machine.device == IDLE:
            count = len(cards())
            leave()
        own = {
            "PIPELINE_STORAGE": storage_url(self.machine, self.paths),
            "PIPELINE_DEVICE": self.machine.device,
        }
        return Pool(
            ["worker", "--child", job.id],
            min(self.machine.workers or count, most),
            self.paths.root,
            self.folder / "logs",
            {**os.environ, **own, **THREADS},
            lambda pid, own: bury(pid, own, self.ledger),
            self._seen,
            self._alone,
        )

    def _alone(self, slot: int) -> list[str]:
        """The arguments of a worker that is to work alone on what its slot was at."""
        note = work_note(self.paths, self.studies, slot)
        return ["--only", note.read_text(encoding="utf-8")] if note.exists() else []

    def _seen(self) -> list[tuple[str, int]]:
        """What grows as long as there is progress."""
        return [(p.state, len(p.curve)) for s in self.studies for p in self.ledger.parts(s.id)]

    def _so_far(self) -> str:
        seen = self.ledger.impatient()  # who has asked to stop does not wait
        try:
            done = self._now(seen).ended
        except StorageAway:
            return "while the storage is away"
        most = most_trials(self.studies, racing=races(self.space, self.studies))
        return f"with {done} of {most} trials finished"

    def _clear_finished(self) -> None:
        raced = self.studies[0].kind == Kind.CANDIDATE and self._is_over()
        for study in self.studies:
            by_state: dict[bool, list[int]] = {True: [], False: []}
            for trial in self.ledger.trials(study.id):
                if trial.state != State.RUNNING:
                    goes_on = trial.state == State.PAUSED and not raced
                    by_state[goes_on].append(trial.number)
            clear_finished(self.paths.study(study.id), by_state[False], by_state[True])


def _say_threads(title: str) -> None:
    """The number of threads is part of the answer, so a person's own is not taken."""
    for name, ours in THREADS.items():
        if os.environ.get(name, ours) != ours:
            print(
                f"{title}: {name}={os.environ[name]} is not used: a worker computes with one"
                " thread, because the order of a sum is part of the answer; how many there are is"
                " `workers` in machine.yaml",
                file=sys.stderr,
            )


@contextmanager
def _only_one(path: Path, title: str) -> Iterator[None]:
    """One crew per study and host. The lock goes with its process, however that ends."""
    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"{title}: another process works on it; waiting", file=sys.stderr)
            lock.acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise UserError(
            f"{title} runs already on this host: wait for it or stop it, then try again"
        ) from None
    try:
        yield
    finally:
        lock.release()
