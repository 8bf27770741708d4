"""The worker process: claims trials, trains them epoch by epoch, records them, until none is left.

It is told what to do by a job file, reads the prepared data once and lives for the whole study.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipeline.config import Space
from pipeline.hyperparameters import Value
from pipeline.owners import owner_name
from pipeline.paths import Paths
from pipeline.study.claim import Lease
from pipeline.study.history import History
from pipeline.study.identity import Study
from pipeline.study.ledger import LeaseLost, Ledger
from pipeline.study.propose import Proposer
from pipeline.study.renewal import Renewal
from pipeline.trainer import Trainer, device_name
from pipeline.trial import TrialRun, prunes

INTERRUPTED = 130
IDLE_SECONDS = 0.2


class Job(BaseModel):
    """What a worker needs to know. The storage URL, which may hold a password, is not in it."""

    model_config = ConfigDict(extra="forbid")

    root: Path
    space: Space
    studies: list[Study]
    candidates: dict[str, dict[str, Value]]  # of studies with one setting: its parameters
    device: str
    lineage: dict[str, Any]  # what every trial records of where it comes from


class Worker:
    """Works on the studies of a job in their order."""

    def __init__(self, job: Job, ledger: Ledger, slot: int = 0):
        """`slot` is its number among the workers of this host."""
        import torch

        self._job = job
        self._ledger = ledger
        self._paths = Paths(job.root, job.space.name)
        self._owner = owner_name(os.getpid())
        self.trainer = Trainer(job.space, self._paths, job.device, slot)
        self._meta = {
            **job.lineage,
            "host": socket.gethostname(),
            "device": device_name(self.trainer.device),
            "torch": torch.__version__,
        }
        self.stopping = False

    def work(self) -> int:
        """Until all trials are finished (0) or it is told to stop (130)."""
        histories = {study.id: History(self._ledger, study.id) for study in self._job.studies}
        search, searched = self._job.space.search, self._job.space.searched
        proposers = {id_: Proposer(searched, search, own) for id_, own in histories.items()}
        while not self.stopping:
            claimed = self._claim()
            if claimed:
                study, lease = claimed
                try:
                    self._run(study, lease, histories[study.id], proposers[study.id])
                except LeaseLost as error:
                    print(f"left alone: {error}", file=sys.stderr, flush=True)
            elif all(self._ledger.is_over(study) for study in self._job.studies):
                return 0
            else:
                time.sleep(IDLE_SECONDS)
        self._ledger.release(self._owner, blameless=True)
        return INTERRUPTED

    def _claim(self) -> tuple[Study, Lease] | None:
        for study in self._job.studies:
            lease = self._ledger.claim(
                study.id,
                budget=self._ledger.admitted(study),  # it only grows, so it may be old by now
                parallelism=study.parallelism,
                owner=self._owner,
                meta=self._meta,
            )
            if lease:
                return study, lease
        return None

    def _run(self, study: Study, lease: Lease, history: History, proposer: Proposer) -> None:
        search, number = self._job.space.search, lease.number
        with Renewal(self._ledger, lease) as renewal:
            run = TrialRun(
                self.trainer,
                self._ledger,
                study,
                lease,
                self._paths.trial(study.id, number),
                lambda training: prunes(search, study, number, history, training),
            )
            chosen = self._parameters(study, lease, proposer)
            run.run(chosen, renewal, lambda: self.stopping)

    def _parameters(self, study: Study, lease: Lease, proposer: Proposer) -> dict[str, Value]:
        if lease.parameters is not None:
            return lease.parameters
        candidate = self._job.candidates.get(study.id)
        chosen = proposer.propose(lease.number) if candidate is None else candidate
        self._ledger.propose(lease, chosen)
        return chosen


def main(job_file: Path, slot: int) -> int:
    """Runs a job. The parent holds the other end of standard input: when it dies, so do we."""
    job = Job.model_validate_json(job_file.read_text(encoding="utf-8"))
    storage = os.environ["PIPELINE_STORAGE"]
    threading.Thread(target=_die_with_parent, daemon=True).start()
    worker = Worker(job, Ledger(storage), slot)

    def stop(*_: object) -> None:
        worker.stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    return worker.work()


def _die_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)
