"""Where a worker's next part comes from: left by another, given by another, or by the plan."""

from __future__ import annotations

import time
from contextlib import suppress

from pipeline.results.states import Kind, State
from pipeline.settings.hyperparameters import Value
from pipeline.study.confirmation.race import Ask
from pipeline.study.search.clock import Cost
from pipeline.study.search.propose import Proposer
from pipeline.study.storage.ahead import PLAN, WATCH, Turn, is_wanted, workers_there
from pipeline.study.storage.claim import Claimant, Lease, Plan, Reopened
from pipeline.study.storage.ledger import LEASE_SECONDS, Ledger
from pipeline.study.watch import Stage, Watch
from pipeline.work.job import Job
from pipeline.work.owners import is_gone

TURN_PER_PLAN = 10  # times what planning a part took, a turn to plan lasts at least

Claimed = tuple[Watch, Lease]


class Claims:
    """Claims parts for a worker, one after another."""

    def __init__(
        self,
        job: Job,
        ledger: Ledger,
        who: Claimant,
        proposer: Proposer,
        cost: Cost,
        only: str | None = None,
    ):
        """`only`, as STUDY/NUMBER, is the one part that it is to claim."""
        self._job, self._ledger, self._who = job, ledger, who
        self._proposer, self._cost, self._only = proposer, cost, only
        self.stage = Stage(ledger, job.studies, job.space)
        self._asked: set[str] = set()
        self._waits = False  # whether it has looked in vain since it last found something
        first = job.studies[0].id
        self._plans = Turn(ledger, PLAN, first, who.owner)
        self.watches = Turn(ledger, WATCH, first, who.owner)

    @property
    def expects(self) -> bool:
        """Whether it watches, for all who wait, a search that is to be planned on."""
        return self.watches.held and not self.stage.watches[0].planner.over

    def next(self) -> Claimed | None:
        """A part to work on; None: there is none by now. Raises OtherArithmetic."""
        watch = self.stage.watches[0]
        idle = self._waits and not self.watches.held
        if idle and not is_wanted(self._ledger, watch.study.id, self._who.owner):
            return None
        self.stage.refresh()
        if self._only:
            study, _, number = self._only.rpartition("/")
            (watch,) = (each for each in self.stage.watches if each.study.id == study)
            lease = self._abandoned(watch, [int(number)])
        elif watch.study.kind == Kind.CANDIDATE:
            return self._run()
        else:
            lease = self._fetch(watch) or self._abandoned(watch) or self._begin(watch)
            self._waits = lease is None
        return (watch, lease) if lease else None

    def _run(self) -> Claimed | None:
        """A run that the race asks for, to begin it or go on with it."""
        open_: dict[int, list[int]] = {}
        for ask in self.stage.race.missing:
            watch = self.stage.watches[ask.candidate]
            last = watch.last.get(ask.seed)
            if last is not None and last.state == State.RUNNING:
                open_.setdefault(ask.candidate, []).append(last.number)
            else:
                plan = _run_plan(watch, ask, self._job.candidates[watch.study.id])
                if lease := self._begin_plan(watch, plan):
                    return watch, lease
        for candidate, numbers in open_.items():
            watch = self.stage.watches[candidate]
            if lease := self._abandoned(watch, numbers):
                return watch, lease
        return None

    def _abandoned(self, watch: Watch, among: list[int] | None = None) -> Lease | None:
        """A part, or one of these, that nobody works on."""
        study = watch.study.id
        if not self._only and study in self._asked and not watch.free:
            return None
        self._asked.add(study)  # once without need: unlike machines hear of it early
        return self._ledger.claim(study, self._who, budget=watch.count, among=among)

    def _fetch(self, watch: Watch) -> Lease | None:
        """What another worker has begun for this one."""
        if all(part.owner != self._who.owner for part in watch.planner.unfinished):
            return None
        return self._ledger.fetch(watch.study.id, self._who)

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
                self.watches.leave()
                return lease
        if not self.watches.lasts:
            self.watches.keep()
        return None

    def _begin_all(self, watch: Watch) -> Lease | None:
        """A part for this worker, and for others, but not for so long that its own lease ends."""
        lease: Lease | None = None
        while lease is None and (plan := self.plan(watch)):
            lease = self._begin_plan(watch, plan)
            watch.refresh()  # with this part, or that of who was faster
        if lease is None or watch.planner.next() is None:
            return lease
        due = time.monotonic() + LEASE_SECONDS / 3
        for owner in workers_there(self._ledger, self._job.space.name):
            if is_gone(owner):
                continue
            late = time.monotonic() > due or not (self._plans.lasts or self._plans.keep())
            if late or not (plan := self.plan(watch)):
                break
            with suppress(Reopened):
                self._ledger.give(watch.study.id, plan, self._who, to=owner)
            watch.refresh()
        return lease

    def plan(self, watch: Watch) -> Plan | None:
        """The next part of a search; None: there is none by now."""
        before = time.monotonic()
        plan = watch.planner.plan(self._proposer.propose, self._cost, watch.reopened or 0)
        seconds = TURN_PER_PLAN * (time.monotonic() - before)
        # One that dies holds up the others for no longer than with its lease.
        self._plans.seconds = min(max(self._plans.seconds, seconds), LEASE_SECONDS)
        return plan

    def _begin_plan(self, watch: Watch, plan: Plan) -> Lease | None:
        """None: somebody was faster, or it no longer counts."""
        with suppress(Reopened):
            return self._ledger.begin(watch.study.id, plan, self._who)
        return None


def _run_plan(watch: Watch, ask: Ask, parameters: dict[str, Value]) -> Plan:
    """The next part of a candidate's run."""
    before = watch.last.get(ask.seed)
    curve = before.curve if before else []
    return Plan(
        number=watch.count,
        trial=ask.seed,
        since=len(curve),
        until=ask.until,
        starts=0,
        follows=None,
        cost=0,
        parameters=parameters,
        curve=curve,
        reopened=watch.reopened or 0,
    )
