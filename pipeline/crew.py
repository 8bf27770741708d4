"""Runs worker processes over studies until all trials are finished: lock, processes, progress."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.config import Space
from pipeline.errors import Interrupted, UserError
from pipeline.hyperparameters import Value
from pipeline.launch.local import Pool, WorkersKeepDying
from pipeline.machine import Machine
from pipeline.owners import POLL_SECONDS, await_orphans, bury, release_the_dead
from pipeline.paths import Paths, write_text
from pipeline.progress import Progress
from pipeline.seeds import digest
from pipeline.stopping import Stop, stop_requests
from pipeline.study.budget import most_trials
from pipeline.study.identity import Study
from pipeline.study.ledger import Ledger, storage_url
from pipeline.trial import clear_finished
from pipeline.worker import Job

LOCK_SECONDS = 20.0
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # of the workers


def run_studies(
    stage: str,
    space: Space,
    machine: Machine,
    paths: Paths,
    ledger: Ledger,
    studies: list[Study],
    candidates: dict[str, dict[str, Value]],
) -> None:
    """Works on `studies` until every trial is finished.

    Raises UserError if another process works on them here; Interrupted on Ctrl-C, SIGTERM or
    SIGHUP, and at `machine.until`.
    """
    _Crew(stage, space, machine, paths, ledger, studies, candidates).work()


@dataclass(frozen=True)
class _Crew:
    stage: str
    space: Space
    machine: Machine
    paths: Paths
    ledger: Ledger
    studies: list[Study]
    candidates: dict[str, dict[str, Value]]

    @property
    def folder(self) -> Path:
        return self.paths.study(self.studies[0].id)

    def work(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        title = f"{self.stage} {self.space.name}"
        with _only_one(self.folder / "lock", title), stop_requests(self.machine.until) as stop:
            await_orphans(self.ledger, self.studies)
            release_the_dead(self.ledger)
            if not self._is_over() and not stop.asked:
                self._run_workers(stop)
            self._clear_finished()
        if stop.signals or not self._is_over():
            raise Interrupted(
                f"{title}: {stop.reason} with {self._finished()} trials finished; nothing is lost:"
                " the same command goes on"
            )

    def _is_over(self) -> bool:
        return all(self.ledger.is_over(study) for study in self.studies)

    def _run_workers(self, stop: Stop) -> None:
        job_file = self._write_job()
        pool = self._start(job_file)
        try:
            with Progress(self.stage, self.space, self.ledger, self.studies) as progress:
                _watch(pool, stop, progress)
        except WorkersKeepDying as error:
            raise RuntimeError(str(error)) from None
        finally:
            pool.kill()
            release_the_dead(self.ledger)

    def _write_job(self) -> Path:
        job = Job(
            root=self.paths.root,
            space=self.space,
            studies=self.studies,
            candidates=self.candidates,
            device=self.machine.device,
            lineage=lineage(self.paths.root),
        )
        job_file = self.folder / f"{self.stage}.job.json"
        write_text(job_file, job.model_dump_json(indent=1))
        return job_file

    def _start(self, job_file: Path) -> Pool:
        most = sum(study.parallelism for study in self.studies)
        storage = {"PIPELINE_STORAGE": storage_url(self.machine, self.paths)}
        return Pool(
            ["worker", str(job_file)],
            min(self.machine.workers or len(os.sched_getaffinity(0)), most),
            self.folder / "logs",
            {**os.environ, **storage, **ENVIRONMENT},
            lambda pid, killed: bury(pid, killed, self.ledger),
            self._seen,
        )

    def _seen(self) -> list[tuple[str, int]]:
        """What grows as long as there is progress."""
        return [(t.state, len(t.curve)) for s in self.studies for t in self.ledger.trials(s.id)]

    def _finished(self) -> str:
        done = sum(self.ledger.finished(study.id, study.budget) for study in self.studies)
        return f"{done} of {most_trials(self.studies)}"

    def _clear_finished(self) -> None:
        for study in self.studies:
            trials = self.ledger.trials(study.id)
            ended = [trial.number for trial in trials if trial.state != "running"]
            clear_finished(self.paths.study(study.id), ended)


def _watch(pool: Pool, stop: Stop, progress: Progress) -> None:
    told = False
    while pool.poll():
        progress.update()
        if stop.asked and not told:
            progress.say("stopping after this epoch; once more to leave at once")
            pool.stop()
            told = True
        if stop.urgent:
            return
        time.sleep(POLL_SECONDS)
    progress.update()


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


def lineage(root: Path) -> dict[str, Any]:
    """Where a trial comes from: Git commit and dirtiness, hash of the lock file."""
    lock = root / "requirements.lock"
    return {
        "git_commit": _git(root, "rev-parse", "HEAD"),
        "git_dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no")),
        "lock_sha256": digest(lock.read_text(encoding="utf-8")) if lock.exists() else "",
    }


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
