"""The worker process: claims parts, trains them epoch by epoch, records them, until none is left.

It is told what to do by a job, reads the prepared data once and lives for the whole study.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError
from pipeline.files import write_text
from pipeline.paths import Paths
from pipeline.results.states import Kind
from pipeline.settings.search_section import PRUNERS
from pipeline.study.identity import Study
from pipeline.study.search.constraints import within
from pipeline.study.search.numerics import of_proposals
from pipeline.study.search.propose import proposer_of
from pipeline.study.search.prune import should_prune
from pipeline.study.storage.arithmetic import OtherArithmetic
from pipeline.study.storage.claim import Claimant, Lease
from pipeline.study.storage.heartbeat import Renewal
from pipeline.study.storage.ledger import LeaseLost, Ledger
from pipeline.study.storage.workers import CANCEL, PAUSE, Presence, look
from pipeline.study.watch import Watch
from pipeline.work.cards import neighbour
from pipeline.work.causes import MOVES
from pipeline.work.claims import Claims
from pipeline.work.idling import LONGEST, Idling
from pipeline.work.job import Job
from pipeline.work.owners import owner_name
from pipeline.work.trainings import Trainer, device_name
from pipeline.work.trial import TrialRun

if TYPE_CHECKING:
    from pipeline.vae.training import Training

INTERRUPTED = 130
WATCHING = 0.3  # seconds between two looks of the one who watches, for all who wait


class Worker:
    """Works on the search or the candidates of a job."""

    def __init__(
        self,
        job: Job,
        ledger: Ledger,
        root: Path,
        device: str,
        slot: int = 0,
        only: str | None = None,
        presence: Presence | None = None,
    ):
        """`root` is its checkout, `device` as in machine.yaml, `slot` its number among the workers
        of this host; `only`, as STUDY/NUMBER, the one trial that it is to work on, while no other
        worker of this host is there; `presence` where it is known as a worker."""
        from pipeline.vae.process import arithmetic

        self._job = job
        self._presence = presence or Presence(owner_name(os.getpid()))
        self._ledger = ledger.seeing(self._presence.note)
        self._paths = Paths(root, job.space.name)
        self._slot = slot
        self._only = only
        self._idle = Idling()
        self.trainer = Trainer(job.space, self._paths, device, slot, alone=only is not None)
        meta = {
            **job.lineage,
            "host": socket.gethostname(),
            "device": device_name(self.trainer.device),
            "arithmetic": {**arithmetic(self.trainer.device), **of_proposals()},
        }
        if source := meta.pop("source", None):  # large, and the same for every trial
            for study in job.studies:
                meta["source"] = self._ledger.keep_origin(study.id, source)
        self.who = Claimant(self._presence.owner, meta, job.mixed_arithmetic)
        proposer = proposer_of(job.space, within(job.space, self.trainer.shape), job.informing)
        self.claims = Claims(job, self._ledger, self.who, proposer, self.trainer.cost, only)
        self.stopping = False

    def stop(self) -> None:
        """Has it leave after the present step."""
        self.stopping = True

    def work(self) -> int:
        """Until all trials are finished or it is cancelled (0), it is told to stop (130), or its
        GPU is somebody else's, too (73)."""
        code = self._work()
        self.claims.watches.leave()
        return code

    def _work(self) -> int:
        while not self.stopping and self._presence.wish != CANCEL:
            if self._presence.wish == PAUSE:
                self.claims.watches.leave()
                self._idle.wait(lambda: self.stopping)
                look(self._ledger, self._presence)
                continue
            if other := neighbour():
                print(f"leaves its GPU: {other}", file=sys.stderr, flush=True)
                return MOVES
            try:
                claimed = self.claims.next()
            except OtherArithmetic as error:
                raise UserError(str(error)) from None
            if claimed:
                watch, lease = claimed
                self._idle = Idling()
                try:
                    self.run(watch, lease)
                except LeaseLost as error:
                    print(f"left alone: {error}", file=sys.stderr, flush=True)
                if self._leaves_trial:
                    self._ledger.release(self.who.owner, blameless=True)
                if self._only and not self._leaves_trial:
                    return 0
            elif self._only or self.claims.stage.is_over:
                return 0
            else:
                self._wait()
        return INTERRUPTED if self.stopping else 0

    @property
    def _leaves_trial(self) -> bool:
        """Whether it is to leave its present trial where it is, and to give it back."""
        return self.stopping or self._presence.wish is not None

    def _wait(self) -> None:
        """A while without work. What is wished of it, it learns from its leases otherwise."""
        longest = WATCHING if self.claims.expects else LONGEST
        self._idle.wait(lambda: self.stopping, longest)
        if self._idle.is_unseen():
            look(self._ledger, self._presence)

    def run(self, watch: Watch, lease: Lease) -> None:
        """Trains a part to its end, or until it is told to leave. Raises LeaseLost."""
        watch.refresh()  # it may have stood still since it looked, and the part sees later ones
        study = watch.study
        write_text(
            work_note(self._paths, self._job.studies, self._slot), f"{study.id}/{lease.number}"
        )
        with Renewal(self._ledger, lease) as renewal:
            run = TrialRun(
                self.trainer,
                self._ledger,
                study,
                lease,
                self._paths.trial(study.id, lease.trial),
                lambda training: self._prunes(watch, lease.number, training),
                self.who.meta,
                shares=self._job.shares and study.kind == Kind.CANDIDATE,
                seed=watch.planner.seeds.get(lease.trial),
            )
            run.run(renewal, lambda: self._leaves_trial)

    def _prunes(self, watch: Watch, number: int, training: Training) -> bool:
        """Whether a trial ends after its epochs so far; see `pipeline.study.search.prune`."""
        search = self._job.space.search
        if watch.study.kind != Kind.SEARCH or search.pruner not in PRUNERS or training.finished:
            return False
        return should_prune(
            search,
            [record["nelbo_nats"] for record in training.records],
            watch.planner.curves(number),
            training.course.first,
        )


def work_note(paths: Paths, studies: list[Study], slot: int) -> Path:
    """Where a worker notes the trial that it is at: it may be killed before it can say so."""
    return paths.study(studies[0].id) / "logs" / f"worker-{slot}.trial"
