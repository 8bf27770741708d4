"""Studies that are followed in the ledger: read again is only what may have moved."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from pipeline.results.states import Kind, State
from pipeline.settings.space import Space
from pipeline.study.confirmation.race import Race
from pipeline.study.confirmation.race_from_records import race_of, rules_of
from pipeline.study.identity import Study
from pipeline.study.search.plan import Planner
from pipeline.study.storage.ledger import Ledger
from pipeline.study.storage.look import look_at
from pipeline.study.storage.rows import Part

ENDED = (State.COMPLETE, State.FAILED)  # of a run: it does not go on


class Watch:
    """The parts of a study within its budget, as they were at the last `refresh`."""

    def __init__(self, ledger: Ledger, study: Study, space: Space):
        self.study = study
        self.space = space
        self._ledger = ledger
        self._begin()

    def _begin(self) -> None:
        self.planner = Planner(self.space)  # of a search
        self._runs: list[Part] = []  # of a candidate
        self.reopened: int | None = None
        self.held = 0  # parts in work
        self.free: list[int] = []  # that nobody works on, or whose worker seems to be gone

    @property
    def parts(self) -> list[Part]:
        """In order."""
        if self.study.kind == Kind.SEARCH:
            return self.planner.parts
        return [part for part in self._runs if part.trial < self.study.budget]

    @property
    def count(self) -> int:
        """How many parts have been begun; of a candidate also those beyond its budget."""
        return len(self._runs or self.planner.parts)

    @property
    def last(self) -> dict[int, Part]:
        """The last part of each trial."""
        return {part.trial: part for part in self.parts}

    @property
    def ended(self) -> int:
        """How many trials nobody is at work on."""
        return sum(part.state != State.RUNNING for part in self.last.values())

    def refresh(self) -> None:
        """Reads what is new or has moved."""
        searches = self.study.kind == Kind.SEARCH
        runs = [part for part in self._runs if part.state == State.RUNNING]
        moving = self.planner.unfinished if searches else runs
        look = look_at(self._ledger, self.study.id, self.count, moving)
        if self.reopened not in (None, look.reopened):
            self._begin()
            look = look_at(self._ledger, self.study.id, 0, [])
        self.reopened, self.held = look.reopened, look.held
        if searches:
            self.planner.update(look.moved)
        else:
            for part in look.moved:
                self._runs[part.number : part.number + 1] = [part]
        self.free = [number for number in look.free if number < self.count]


class Stage:
    """The studies that a stage works on: that of a search, or those of candidates that race."""

    def __init__(self, ledger: Ledger, studies: Sequence[Study], space: Space):
        self.watches = [Watch(ledger, study, space) for study in studies]
        self._space = space

    def refresh(self) -> None:
        """Reads what is new or may have moved."""
        for watch in self.watches:
            watch.refresh()
        self.__dict__.pop("race", None)

    @cached_property
    def race(self) -> Race:
        """Of the candidates, as it stands."""
        studies = [watch.study for watch in self.watches]
        trials = [list(watch.last.values()) for watch in self.watches]
        return race_of(self._space, [study.spec["parameters"] for study in studies], trials)

    @property
    def is_over(self) -> bool:
        """Whether everything that belongs to it is finished."""
        if self._searches:
            return all(watch.planner.finished for watch in self.watches)
        return self.race.over

    @property
    def ended(self) -> int:
        """How many trials nobody is at work on."""
        return sum(watch.ended for watch in self.watches)

    @property
    def foreseen(self) -> float:
        """The epochs of the candidates' runs, as far as they are asked for by now: those that are
        left go on to the last one, or to where runs have ended so far."""
        last = [watch.last for watch in self.watches]
        ended = [part.epochs for each in last for part in each.values() if part.state in ENDED]
        whole = sum(ended) / len(ended) if ended else self.watches[0].study.epochs
        total = 0.0
        for (candidate, seed), until in self.race.asked.items():
            part = last[candidate].get(seed)
            if part is not None and part.state in ENDED:
                total += part.epochs
            else:
                total += whole if candidate in self.race.left else until
        return total

    @property
    def _searches(self) -> bool:
        return self.watches[0].study.kind == Kind.SEARCH


def races(space: Space, studies: Sequence[Study]) -> bool:
    """Whether these are candidates that race."""
    if studies[0].kind == Kind.SEARCH:
        return False
    return rules_of(space, [study.spec["parameters"] for study in studies]).races(len(studies))


def most_trials(studies: Sequence[Study], *, racing: bool = False) -> str:
    """The budget of some studies in trials, as far as it is known beforehand."""
    at_most = "at most " if racing or any(study.total_epochs for study in studies) else ""
    return f"{at_most}{sum(study.budget for study in studies)}"
