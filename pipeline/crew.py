"""Runs worker processes over studies until all trials are finished: lock, signals, progress."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.config import Machine, Space
from pipeline.errors import Interrupted, UserError
from pipeline.hyperparameters import Value
from pipeline.launch.local import Pool, WorkersKeepDying
from pipeline.paths import Paths, write_text
from pipeline.progress import Progress
from pipeline.seeds import digest
from pipeline.study.identity import Study
from pipeline.study.ledger import Ledger, storage_url
from pipeline.sync import following
from pipeline.worker import Job, owner_name, process_start

POLL_SECONDS = 0.25
LOCK_SECONDS = 20.0
ORPHAN_SECONDS = 10.0


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

    Raises UserError if another process works on them here, Interrupted on Ctrl-C or SIGTERM.
    """
    folder = paths.study(studies[0].id)
    folder.mkdir(parents=True, exist_ok=True)
    with _only_one(folder / "lock", stage, space.name), _signals() as asked:
        _await_orphans(ledger, studies)
        _release_the_dead(ledger)
        if all(ledger.finished(study.id, study.budget) >= study.budget for study in studies):
            return
        job = Job(
            root=paths.root,
            space=space,
            studies=studies,
            candidates=candidates,
            device=machine.device,
            lineage=lineage(paths.root),
        )
        job_file = folder / f"{stage}.job.json"
        write_text(job_file, job.model_dump_json(indent=1))
        most = sum(study.parallelism for study in studies)
        count = min(machine.workers or len(os.sched_getaffinity(0)), most)
        environment = {
            **os.environ,
            "PIPELINE_STORAGE": storage_url(machine, paths),
            **_ENVIRONMENT,
        }
        with following(space, machine, paths):
            pool = Pool(
                ["worker", str(job_file)],
                count,
                folder / "logs",
                environment,
                lambda pid, killed: _bury(pid, killed, ledger),
                lambda: _progress_of(ledger, studies),
            )
            try:
                with Progress(stage, space, ledger, studies) as progress:
                    _watch(pool, asked, progress)
            except WorkersKeepDying as error:
                raise RuntimeError(str(error)) from None
            finally:
                pool.kill()
                _release_the_dead(ledger)
    if asked:
        done = sum(ledger.finished(study.id, study.budget) for study in studies)
        budget = sum(study.budget for study in studies)
        raise Interrupted(
            f"{stage} {space.name}: interrupted with {done} of {budget} trials finished; nothing"
            " is lost: the same command goes on"
        )


_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


def _watch(pool: Pool, asked: list[int], progress: Progress) -> None:
    told = False
    while pool.poll():
        progress.update()
        if asked and not told:
            progress.say("stopping after this epoch; once more to leave at once")
            pool.stop()
            told = True
        if len(asked) > 1:
            return
        time.sleep(POLL_SECONDS)
    progress.update()


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The stop requests so far: Ctrl-C, SIGTERM, or the end of the `dvc` that started us."""
    asked: list[int] = []
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = {kind: signal.getsignal(kind) for kind in kinds}
    for kind in kinds:
        signal.signal(kind, lambda number, _: asked.append(number))
    over = threading.Event()
    if "DVC_STAGE" in os.environ:
        threading.Thread(target=_watch_parent, args=(os.getppid(), over), daemon=True).start()
    try:
        yield asked
    finally:
        over.set()
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _watch_parent(parent: int, over: threading.Event) -> None:
    """A killed dvc leaves its stage running; the next dvc would be a second writer."""
    while not over.wait(POLL_SECONDS):
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
            return


@contextmanager
def _only_one(path: Path, stage: str, name: str) -> Iterator[None]:
    """One crew per study and host. The lock goes with its process, however that ends."""
    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"{stage} {name}: another process works on it; waiting", file=sys.stderr)
            lock.acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise UserError(
            f"{stage} {name} runs already on this host: wait for it or stop it, then try again"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _await_orphans(ledger: Ledger, studies: list[Study]) -> None:
    """Waits for workers of these studies on this host: their parent, who held our lock, is dead."""
    deadline = time.monotonic() + ORPHAN_SECONDS
    while time.monotonic() < deadline:
        owners = [owner for study in studies for owner in ledger.owners(study.id)]
        if not any(_is_here(owner) and not _is_dead(owner) for owner in owners):
            return
        time.sleep(POLL_SECONDS)


def _release_the_dead(ledger: Ledger) -> None:
    """What workers of this host held that no longer live, as after a power cut: nobody's fault."""
    for owner in ledger.owners():
        if _is_here(owner) and _is_dead(owner):
            ledger.release(owner, blameless=True)


def _bury(pid: int, killed: bool, ledger: Ledger) -> bool:
    """Releases what a dead worker held; True if that trial gets a strike for having killed it."""
    prefix = owner_name(pid).rsplit("/", 1)[0] + "/"
    owner = next((owner for owner in ledger.owners() if owner.startswith(prefix)), prefix)
    return ledger.release(owner, blameless=not killed) and killed


def _is_here(owner: str) -> bool:
    return owner.split("/")[0] == socket.gethostname()


def _is_dead(owner: str) -> bool:
    _, pid, start = owner.split("/")
    return process_start(int(pid)) != start


def _progress_of(ledger: Ledger, studies: list[Study]) -> list[tuple[str, int]]:
    return [(t.state, len(t.curve)) for study in studies for t in ledger.trials(study.id)]


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
