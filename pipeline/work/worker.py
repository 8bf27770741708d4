"""The worker process: claims trials, trains them epoch by epoch, records them, until none is left.

It is told what to do by a job, reads the prepared data once and lives for the whole study.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.files import write_text
from pipeline.paths import Paths
from pipeline.results.states import Kind, State
from pipeline.settings.search_section import PRUNERS
from pipeline.study.ahead import PLAN, WATCH, Turn, is_wanted, workers_there
from pipeline.study.arithmetic import OtherArithmetic
from pipeline.study.claim import Lease, Plan, Reopened
from pipeline.study.constraints import within
from pipeline.study.heartbeat import Renewal
from pipeline.study.identity import Study
from pipeline.study.ledger import LEASE_SECONDS, LeaseLost, Ledger
from pipeline.study.numerics import of_proposals
from pipeline.study.propose import proposer_of
from pipeline.study.prune import should_prune
from pipeline.study.watch import Stage, Watch
from pipeline.study.workers import CANCEL, PAUSE, Presence, look
from pipeline.work.cards import neighbour
from pipeline.work.causes import MOVES
from pipeline.work.idling import LONGEST, Idling
from pipeline.work.job import Job
from pipeline.work.owners import is_gone, owner_name
from pipeline.work.plans import next_plan, run_plan
from pipeline.work.trainings import Trainer, device_name
from pipeline.work.trial import TrialRun

if TYPE_CHECKING:
    from pipeline.vae.training import Training

INTERRUPTED = 130
WATCHING = 0.3  # seconds between two looks of the one who watches, for all who wait
TURN_PER_PLAN = 10  # times what planning a part took, a turn to plan lasts at least


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
        self._owner = self._presence.owner
        self._ledger = ledger.seeing(self._presence.note)
        self._paths = Paths(root, job.space.name)
        self._slot = slot
        self._only = only
        self._idle = Idling()
        self.trainer = Trainer(job.space, self._paths, device, slot, alone=only is not None)
        self._stage = Stage(self._ledger, job.studies, job.space)
        rule = within(job.space, self.trainer.shape)
        self._proposer = proposer_of(job.space, rule, job.informing)
        self._meta = {
            **job.lineage,
            "host": socket.gethostname(),
            "device": device_name(self.trainer.device),
            "arithmetic": {**arithmetic(self.trainer.device), **of_proposals()},
        }
        if source := self._meta.pop("source", None):  # large, and the same for every trial
            for study in job.studies:
                self._meta["source"] = self._ledger.keep_origin(study.id, source)
        self._asked: set[str] = set()
        self._waits = False  # whether it has looked in vain since it last worked
        first = job.studies[0].id
        self._plans = Turn(self._ledger, PLAN, first, self._owner)
        self._watches = Turn(self._ledger, WATCH, first, self._owner)
        self.stopping = False

    def stop(self) -> None:
        """Has it leave after the present step."""
        self.stopping = True

    def work(self) -> int:
        """Until all trials are finished or it is cancelled (0), it is told to stop (130), or its
        GPU is somebody else's, too (73)."""
        code = self._work()
        self._watches.leave()
        return code

    def _work(self) -> int:
        while not self.stopping and self._presence.wish != CANCEL:
            if self._presence.wish == PAUSE:
                self._watches.leave()
                self._idle.wait(lambda: self.stopping)
                look(self._ledger, self._presence)
                continue
            if other := neighbour():
                print(f"leaves its GPU: {other}", file=sys.stderr, flush=True)
                return MOVES
            try:
                claimed = self._claim()
            except OtherArithmetic as error:
                raise UserError(str(error)) from None
            if claimed:
                watch, lease = claimed
                self._idle = Idling()
                try:
                    self._run(watch, lease)
                except LeaseLost as error:
                    print(f"left alone: {error}", file=sys.stderr, flush=True)
                if self._leaves_trial:
                    self._ledger.release(self._owner, blameless=True)
                if self._only and not self._leaves_trial:
                    return 0
            elif self._only or self._stage.is_over:
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
        plans = self._watches.held and not self._stage.watches[0].planner.over
        longest = WATCHING if plans else LONGEST
        self._idle.wait(lambda: self.stopping, longest)
        if self._idle.is_unseen():
            look(self._ledger, self._presence)

    def _claim(self) -> tuple[Watch, Lease] | None:
        watch = self._stage.watches[0]
        idle = self._waits and not self._watches.held
        if idle and not is_wanted(self._ledger, watch.study.id, self._owner):
            return None
        self._stage.refresh()
        if self._only:
            study, _, number = self._only.rpartition("/")
            (watch,) = (each for each in self._stage.watches if each.study.id == study)
            lease = self._abandoned(watch, [int(number)])
            return (watch, lease) if lease else None
        if self._job.studies[0].kind == Kind.CANDIDATE:
            return self._claim_run()
        lease = self._fetch(watch) or self._abandoned(watch) or self._begin(watch)
        self._waits = lease is None
        return (watch, lease) if lease else None

    def _claim_run(self) -> tuple[Watch, Lease] | None:
        """A run that the race asks for, to begin it or go on with it."""
        open_: dict[int, list[int]] = {}
        for ask in self._stage.race.missing:
            watch = self._stage.watches[ask.candidate]
            last = watch.last.get(ask.seed)
            if last is not None and last.state == State.RUNNING:
                open_.setdefault(ask.candidate, []).append(last.number)
            else:
                plan = run_plan(watch, ask, self._job.candidates[watch.study.id])
                if lease := self._begin_plan(watch, plan):
                    return watch, lease
        for candidate, numbers in open_.items():
            watch = self._stage.watches[candidate]
            if lease := self._abandoned(watch, numbers):
                return watch, lease
        return None

    def _abandoned(self, watch: Watch, among: list[int] | None = None) -> Lease | None:
        """A part, or one of these, that nobody works on."""
        if not self._only and watch.study.id in self._asked and not watch.free:
            return None
        self._asked.add(watch.study.id)  # once without need: unlike machines hear of it early
        return self._ledger.claim(
            watch.study.id,
            budget=watch.count,
            owner=self._owner,
            meta=self._meta,
            among=among,
            mixed=self._job.mixed_arithmetic,
        )

    def _begin(self, watch: Watch) -> Lease | None:
        """The next part of a search; None: there is none by now, or another worker plans.

        Of those that can begin now, each worker that waits for one is given one, too.
        """
        if watch.planner.finished:
            return None
        if watch.planner.next() is not None and (begun := self._plans.keep()) is not None:
            if begun != watch.count:  # by who had the turn before
                watch.refresh()
            lease = self._begin_all(watch)
            self._plans.leave()
            if lease:
                self._watches.leave()
                return lease
        if not self._watches.lasts:
            self._watches.keep()
        return None

    def _begin_all(self, watch: Watch) -> Lease | None:
        """A part for this worker, and for others, but not for so long that its own lease ends."""
        lease: Lease | None = None
        while lease is None and (plan := self._plan(watch)):
            lease = self._begin_plan(watch, plan)
            watch.refresh()  # with this part, or that of who was faster
        if lease is None or watch.planner.next() is None:
            return lease
        due = time.monotonic() + LEASE_SECONDS / 3
        for owner in workers_there(self._ledger, self._job.space.name):
            if is_gone(owner):
                continue
            late = time.monotonic() > due or not (self._plans.lasts or self._plans.keep())
            if late or not (plan := self._plan(watch)):
                break
            self._give(watch, plan, owner)
            watch.refresh()
        return lease

    def _give(self, watch: Watch, plan: Plan, to: str) -> None:
        with suppress(Reopened):
            mixed = self._job.mixed_arithmetic
            self._ledger.give(watch.study.id, plan, to=to, meta=self._meta, mixed=mixed)

    def _fetch(self, watch: Watch) -> Lease | None:
        """What another worker has begun for this one."""
        if all(part.owner != self._owner for part in watch.planner.unfinished):
            return None
        mixed = self._job.mixed_arithmetic
        study = watch.study.id
        return self._ledger.fetch(study, owner=self._owner, meta=self._meta, mixed=mixed)

    def _plan(self, watch: Watch) -> Plan | None:
        before = time.monotonic()
        plan = next_plan(watch, self._proposer, self.trainer.cost)
        seconds = TURN_PER_PLAN * (time.monotonic() - before)
        # One that dies holds up the others for no longer than with its lease.
        self._plans.seconds = min(max(self._plans.seconds, seconds), LEASE_SECONDS)
        return plan

    def _begin_plan(self, watch: Watch, plan: Plan) -> Lease | None:
        """None: somebody was faster, or it no longer counts."""
        who: dict[str, Any] = {"owner": self._owner, "meta": self._meta}
        try:
            mixed = self._job.mixed_arithmetic
            return self._ledger.begin(watch.study.id, plan, **who, mixed=mixed)
        except Reopened:
            return None

    def _run(self, watch: Watch, lease: Lease) -> None:
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
                self._meta,
                shares=self._job.shares and study.kind == Kind.CANDIDATE,
                seed=watch.planner.seeds.get(lease.trial),
            )
            run.run(renewal, lambda: self._leaves_trial)

    def _prunes(self, watch: Watch, number: int, training: Training) -> bool:
        """Whether a trial ends after its epochs so far; see `pipeline.study.prune`."""
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
