"""What comes next in a search, as a pure function of its parts so far.

A *part* is a stretch of a trial's training: from its start to the first rung, or from one rung to
the next. Parts are begun in the order of their numbers. Part n stands at a place on the virtual
clock (`clock`, in this room), sees what had ended by then, and promotes the trial that deserves it
(`ladder`) or begins a new one, whose parameters are proposed from what it sees (`propose`). None of
this depends on the number of workers, their speed or crashes.

A search may begin with kept trials of earlier ones (`kept_table`), whose parts come first.

The budget is read by nothing of that: it only says which part is the first that is not begun. So a
larger one extends a search.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.results.states import State
from pipeline.settings.hyperparameters import Choices, Value
from pipeline.settings.space import Space
from pipeline.study.search.clock import Clock, Cost, Place
from pipeline.study.search.ladder import Ladder
from pipeline.study.search.prune import Curve
from pipeline.study.storage.claim import Plan
from pipeline.study.storage.rows import Part, Record
from pipeline.vae.schedule import kl_warmup_end

CURVES = 400  # enough to judge a trial by; more would make every epoch of trial 5 000 slower


@dataclass(frozen=True)
class Known:
    """A trial as a proposal sees it: what its last part that had ended by then has come to."""

    parameters: dict[str, Value]
    state: State
    epochs: int = 0
    result: Record | None = None


@dataclass(frozen=True)
class Step:
    """The next part, but for the parameters of a new trial."""

    number: int
    place: Place
    trial: int
    since: int  # the epochs that the trial has behind it
    until: int  # the epoch at which the part ends; for a new trial, whose KL warm-up may be
    # shorter than the longest that can be drawn, at the latest (see `Planner.first_pause`)

    @property
    def is_new(self) -> bool:
        """Whether it begins a trial."""
        return self.since == 0


Propose = Callable[["Planner"], dict[str, Value]]  # the searched parameters of the next trial


class Planner:
    """Follows a search part by part: `update` with what the ledger has, then `next`."""

    def __init__(self, space: Space):
        self._search = space.search
        self.ladder = Ladder(space.search.pauses, space.search.reduction_factor)
        self._space = space
        self._first = max(self.first_pause(chosen) for chosen in _warm_ups(space))
        search = space.search
        # What sees nothing waits for nothing.
        seen = not search.is_blind or search.stop is not None
        self.clock = Clock(search.parallelism if seen else math.inf)
        self.parts: list[Part] = []  # as they were at the last update
        self.trials: list[Known] = []  # as the next part sees them
        self.over = False  # the next part is not begun: the budget is spent
        self._place: Place | None = None  # of the next part, once that is certain
        self._latest: list[int] = []  # the last part of each trial
        self._spent = 0  # epochs of finished parts
        self._curves: dict[int, Curve] = {}
        self._gained = (math.inf, 0)  # the value at the last gain, and how many trials had begun
        self.kept: list[dict[str, Value]] = []  # the settings of the trials that it begins with,
        self.seeds: dict[int, int] = {}  # and by number those that they were trained with

    @property
    def finished(self) -> bool:
        """Whether the budget is spent and nothing is left to do."""
        return self.next() is None and self.over and not self.unfinished

    @property
    def unfinished(self) -> list[Part]:
        """The parts that are still worked on, or wait for a worker."""
        return [part for part in self._open if part.state == State.RUNNING]

    @property
    def _open(self) -> list[Part]:
        return [self.parts[number] for number in self.clock.open]

    def latest(self, trial: int) -> Part:
        """The last part of a trial."""
        return self.parts[self._latest[trial]]

    def update(self, parts: Iterable[Part]) -> None:
        """Takes in parts that are new or have moved, in the order of their numbers."""
        for part in parts:
            if part.number < len(self.parts):
                self._move(part)
            elif part.number == len(self.parts) and part.kept:
                self._keep(part)
            elif part.number == len(self.parts):
                if self._place is None:
                    self._arrive(Place(part.starts, part.follows))
                until = part.until if part.since else self._first
                if self._admits(part.trial, until, part.since):
                    self._begin(part)

    def next(self) -> Step | None:
        """The next part; None: it is not certain yet, or there is none (`over`)."""
        if self._place is None and (place := self.clock.next()):
            self._arrive(place)
        if self._place is None:
            return None
        step = self._step(self._place)
        return step if self._admits(step.trial, step.until, step.since) else None

    def plan(self, propose: Propose, cost: Cost, reopened: int) -> Plan | None:
        """The next part with all that whoever begins it writes down; None as `next`."""
        step = self.next()
        if step is None:
            return None
        curve: list[Record] = []
        if step.is_new:
            chosen = propose(self)
            until, each = self.first_pause(chosen), cost(chosen)
        else:
            before = self.latest(step.trial)
            chosen, curve = before.parameters or {}, before.curve
            until, each = step.until, before.cost
        return Plan(
            number=step.number,
            trial=step.trial,
            since=step.since,
            until=until,
            starts=step.place.starts,
            follows=step.place.follows,
            cost=each,
            parameters=chosen,
            curve=curve,
            reopened=reopened,
        )

    def first_pause(self, chosen: dict[str, Value]) -> int:
        """The epoch at which a trial pauses first: not within its KL warm-up, until whose end its
        NELBO says nothing."""
        setting = self._space.hyperparameters(chosen)
        return self.ladder.first(kl_warmup_end(setting, self._search.epochs) + 1)

    def curves(self, number: int) -> list[Curve]:
        """What part `number` may compare itself with: the latest `CURVES` that it has seen."""
        latest = self.parts[max(0, number + 1 - 2 * CURVES) : number + 1]
        seen = [self.parts[part.follows] for part in latest if part.follows is not None]
        seen = [*itertools.takewhile(lambda part: part.kept, self.parts), *seen]
        judged = [part for part in seen if part.state != State.FAILED][-CURVES:]
        return [self._curve(part) for part in judged]

    def _curve(self, part: Part) -> Curve:
        """Of a part that ended, made once: every epoch of every later part reads it."""
        if part.number not in self._curves:
            values = tuple(record["nelbo_nats"] for record in part.curve)
            self._curves[part.number] = Curve(part.trial, values, part.state == State.COMPLETE)
        return self._curves[part.number]

    def _step(self, place: Place) -> Step:
        number = len(self.parts)
        if promoted := self.ladder.promote():
            trial, until = promoted
            return Step(number, place, trial, self.trials[trial].epochs, until)
        return Step(number, place, len(self.trials), 0, self._first)

    def _fits(self, until: int, since: int) -> bool | None:
        """Whether the total of epochs has room for a part; None: some are still running."""
        total = self._search.total_epochs
        if total is None:
            return True
        running = self.unfinished
        planned = sum((part.until if part.since else self._first) - part.since for part in running)
        if self._spent + planned + until - since <= total:
            return True
        return None if running else False

    def _admits(self, trial: int, until: int, since: int) -> bool:
        """Whether the next part belongs to the budget, which may have been larger before."""
        most = self._search.trials if self._space.searched else 0
        if since == 0 and (trial >= most or self.stopped):
            self.over = True
            return False
        fits = self._fits(until, since)
        self.over = fits is False
        return bool(fits)

    @property
    def stopped(self) -> bool:
        """Whether no new trial begins because the last ones have gained nothing."""
        stop = self._search.stop
        return stop is not None and len(self.trials) - self._gained[1] >= stop.patience

    def _arrive(self, place: Place) -> None:
        """The next part will stand there: what it follows becomes known."""
        self._place = place
        if place.follows is not None:
            self._see(self.parts[place.follows])

    def _begin(self, part: Part) -> None:
        self._place = None
        self.clock.begin(part.number, Place(part.starts, part.follows))
        self._add(part)
        self._tell(part)

    def _add(self, part: Part) -> None:
        if part.since:
            self.ladder.leave(part.trial, part.until)
            self._latest[part.trial] = part.number
        else:
            self.trials.append(Known(part.parameters or {}, State.RUNNING))
            self._latest.append(part.number)
        self.parts.append(part)

    def _keep(self, part: Part) -> None:
        """Of a trial that the search begins with: it had ended before, and takes no worker."""
        self._add(part)
        if part.since == 0 and part.kept:
            self.kept.append(part.parameters or {})
            self.seeds[part.trial] = part.kept["seed"]
        self._spent += part.epochs - part.since
        self._see(part)
        self._gained = self._gained[0], len(self.trials)

    def _move(self, part: Part) -> None:
        before, self.parts[part.number] = self.parts[part.number], part
        if before.state == State.RUNNING:
            self._tell(part)

    def _tell(self, part: Part) -> None:
        if ended := part.state != State.RUNNING:
            self._spent += part.epochs - part.since
        self.clock.tell(part.number, part.ends, certain=ended)

    def _see(self, part: Part) -> None:
        """A part that ended becomes known to all that come after."""
        known = Known(part.parameters or {}, part.state, part.epochs, part.result)
        self.trials[part.trial] = known
        if part.result is not None and part.state in (State.COMPLETE, State.PAUSED):
            value = part.result["nelbo_nats"]
            ended = part.state == State.COMPLETE
            self.ladder.add(part.trial, part.epochs, value, ended=ended)
            if self._search.stop and value < self._gained[0] - self._search.stop.gain:
                self._gained = value, len(self.trials)


def belonging(space: Space, parts: Sequence[Part]) -> list[Part]:
    """The parts within the budget."""
    planner = Planner(space)
    planner.update(parts)
    return planner.parts


def _warm_ups(space: Space) -> Iterator[dict[str, Value]]:
    """The searched KL warm-ups that are as long as any."""
    yield {}
    for name in ("kl_warmup", "kl_warmup_epochs"):
        if domain := space.searched.get(name):
            ends = domain.choices if isinstance(domain, Choices) else [domain.high]
            yield from ({name: end} for end in ends)
