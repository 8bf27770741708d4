"""The command `worker`: a process that works on a job of the storage, on any host.

`search` and `retrain` start it as a child, which ends with them; a job script, ssh or a person
start it alone. Then it sees to itself what it needs: the code of the job, the prepared images.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from pipeline.errors import UserError, stop_here
from pipeline.paths import Paths
from pipeline.results.record import is_made
from pipeline.settings.machine import Machine, load_machine
from pipeline.study.storage.ledger import Ledger, storage_url
from pipeline.study.storage.outages import StorageAway
from pipeline.study.storage.workers import CANCEL, Presence, arrive, depart, look
from pipeline.work.cards import IDLE, granted, neighbour
from pipeline.work.causes import MOVES, exit_code
from pipeline.work.job import Job, check_code, open_job
from pipeline.work.leave_signals import Told
from pipeline.work.owners import owner_name
from pipeline.work.slurm_task import granted_device, release_predecessors, task_id
from pipeline.work.worker import INTERRUPTED, Worker

WRONG = 2


def work(
    root: Path,
    name: str,
    slot: int,
    told: Told,
    *,
    child: bool = False,
    only: str | None = None,
    after: int | None = None,
) -> int:
    """Works on the job `name` until nothing is left (0) or it is told to leave (130).

    What fails for the machine's sake ends the process, whose context on a device may be broken: the
    exit code says that another one is to go on (see `pipeline.work.causes`). `after` is what the
    one before it in its job script has left with. Raises UserError.
    """
    if child:  # its parent holds the other end of standard input
        threading.Thread(target=_die_with_parent, daemon=True).start()
        machine = Machine(
            device=os.environ["PIPELINE_DEVICE"], storage=os.environ["PIPELINE_STORAGE"]
        )
    else:
        machine = load_machine(root)
    try:
        with closing(Ledger(storage_url(machine, Paths(root, "")))) as ledger:
            job = open_job(ledger, name)
            with _present(ledger, job, after) as presence:
                if not child:
                    check_code(job)
                    _prepare(job, machine, Paths(root, job.space.name))
                device = granted_device(machine.device)
                device = granted(device, lambda: _leaves(told, ledger, presence))
                if device == IDLE:
                    return INTERRUPTED if told.leave else 0
                told.then = stop_here  # it holds nothing, and to import torch may take long
                if told.leave:
                    return INTERRUPTED
                worker = Worker(job, ledger, root, device, slot, only, presence)
                told.then = worker.stop
                return worker.work()
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if (code := exit_code(error)) is None:
            raise
        if neighbour():
            code = MOVES
        traceback.print_exc()
        first = (str(error).splitlines() or [""])[0]
        print(f"{type(error).__name__}: {first}", file=sys.stderr, flush=True)
        return code


def _leaves(told: Told, ledger: Ledger, presence: Presence) -> bool:
    """Whether a worker that has not begun is to leave; it is seen to be there."""
    look(ledger, presence)
    return told.leave or presence.wish == CANCEL


@contextmanager
def _present(ledger: Ledger, job: Job, after: int | None) -> Iterator[Presence]:
    """Is entered among the workers, and leaves with a word if something is wrong."""
    presence, task = Presence(owner_name(os.getpid())), task_id()
    if task:
        release_predecessors(ledger, job.space.name, task, after)
    arrive(ledger, presence, job.space.name, task)
    code, said = INTERRUPTED, None
    try:
        yield presence
        code = 0
    except UserError as error:
        code, said = WRONG, str(error)
        raise
    finally:
        with suppress(StorageAway):
            depart(ledger.impatient(), presence.owner, code, said)


def _prepare(job: Job, machine: Machine, paths: Paths) -> None:
    """The images, where no folder is shared: as `prepare` makes them everywhere, digest by digest.

    Workers that start together wait for the first.
    """
    from pipeline.stages.prepare import run

    paths.state.mkdir(parents=True, exist_ok=True)
    with FileLock(paths.state / f"{paths.name}.prepare.lock"):
        if not is_made(paths, "prepare"):
            print(f"worker: prepare {paths.name}", file=sys.stderr, flush=True)
            run(job.space, machine, paths)


def _die_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)
