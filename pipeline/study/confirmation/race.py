"""Who of the candidates is trained how far on how many seeds, as a pure function of their runs.

Candidates race: all train on FIRST_SEEDS seeds to a rung, and who is behind there for sure is
dropped; those that are left train to the last epoch. There seeds are added, one at a time, for
those that cannot be told from the leader by the rule that the winner is chosen by.

A candidate is dropped if a one-sided interval of its gap to the leader excludes 0 twice: as it is,
and as it would be at the last epoch, for curves cross. A value is extrapolated by half the gain of
the last doubling of the epochs for each doubling to come. The seeds' variance is pooled over all
that race. Every look errs by itself: of a pair whose seeds scatter alike, n rungs take the better
one for the worse in up to n × LEVEL of all cases, and it counts for each pair of those that race.
Looks at the last epoch err more often (a candidate's own scatter is granted to none: 11 % for equal
ones on three seeds, 14 % on two), but all they say is who needs no more seeds.

The race is replayed from its start, and reads of a run no more than what it has asked for: neither
longer trainings of before nor more seeds change its answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pipeline.study.confirmation.compare import lead_of_seeds

LEVEL = 0.025  # one-sided, of every look
FIRST_SEEDS = 2
GAIN = 0.5  # of the last doubling, that the next one is worth


@dataclass(frozen=True)
class Rules:
    """How long the race is: see the section `retrain` of a space."""

    epochs: int
    seeds: int
    rungs: Sequence[int] = ()  # rising, each below `epochs` and with a half that counts
    objectives: int = 1

    def races(self, candidates: int) -> bool:
        """Whether there is a race: not of one alone, nor on one seed, nor for two objectives."""
        return candidates > 1 and self.seeds >= FIRST_SEEDS and self.objectives == 1


@dataclass(frozen=True)
class Run:
    """A run as far as it has come."""

    values: Sequence[float]  # after each epoch, the validation NELBO in nats if it ended there
    ends: int | None = None  # the epoch that is its last, or in which it fails; None: not by now
    failed: bool = False

    def has(self, epoch: int) -> bool:
        """Whether it has come that far, or ended before."""
        return self.ends is not None or len(self.values) >= epoch

    def ended(self, epoch: int) -> bool:
        """Whether it does not go on after that epoch."""
        return self.ends is not None and self.ends <= epoch

    def at(self, epoch: int) -> float:
        """Its value there, or where it has ended before."""
        return self.values[min(epoch, len(self.values)) - 1]


@dataclass(frozen=True)
class Ask:
    """What is to be trained next: the run of a candidate on a seed, until an epoch."""

    candidate: int
    seed: int
    until: int


@dataclass(frozen=True)
class Standing:
    """A candidate at a look, in nats."""

    candidate: int
    seeds: int
    mean: float
    behind: float  # the leader; 0 for itself
    least: float | None  # that it is behind, but for an error of LEVEL; None for the leader
    least_at_end: float | None  # the same, extrapolated to the last epoch; None: there it is
    out: bool  # dropped; at the last epoch: told from the leader, so it needs no more seeds


@dataclass(frozen=True)
class Look:
    """When candidates were compared."""

    epoch: int
    standings: list[Standing]
    level: float = LEVEL  # the error of each bound

    @property
    def at_rung(self) -> bool:
        """Whether it drops who is behind for sure: at the last epoch nothing is extrapolated."""
        return any(standing.least_at_end is not None for standing in self.standings)


@dataclass
class Race:
    """What `replay` has found."""

    asked: dict[tuple[int, int], int] = field(default_factory=dict)  # candidate, seed: until
    missing: list[Ask] = field(default_factory=list)  # what of that is to be trained
    looks: list[Look] = field(default_factory=list)
    dropped: dict[int, Look] = field(default_factory=dict)  # by candidate
    failed: set[int] = field(default_factory=set)
    left: list[int] = field(default_factory=list)

    @property
    def over(self) -> bool:
        """Whether all that it asks for is there."""
        return not self.missing

    def seeds(self, candidate: int) -> list[int]:
        """Those that it has asked for of a candidate."""
        return [seed for each, seed in self.asked if each == candidate]


def replay(rules: Rules, runs: Sequence[Mapping[int, Run]]) -> Race:
    """The race so far of candidates whose runs, by seed, are these.

    Where all that were left have failed in the end, the race begins anew without them.
    """
    race = Race()
    while True:
        started = [each for each in range(len(runs)) if each not in race.failed]
        again = Race(asked=race.asked, failed=race.failed, left=started)
        _Replay(rules, runs, again).go()
        if again.left or again.missing or not again.dropped:
            return again
        race = again


class _Replay:
    def __init__(self, rules: Rules, runs: Sequence[Mapping[int, Run]], race: Race):
        self._rules, self._runs, self._race = rules, runs, race

    def go(self) -> None:
        rules, race = self._rules, self._race
        races = rules.races(len(self._runs))
        first = FIRST_SEEDS if races else rules.seeds
        for until in (*(rules.rungs if races else ()), rules.epochs):
            if not self._train({each: range(first) for each in race.left}, until):
                return
            if until < rules.epochs and len(race.left) > 1:
                self._look(until)
        while races and len(race.left) > 1:
            tied = self._compare()
            fewest = min(len(race.seeds(each)) for each in tied)
            if len(tied) == 1 or fewest == rules.seeds:
                return
            more = {each: [fewest] for each in tied if len(race.seeds(each)) == fewest}
            if not self._train(more, rules.epochs):
                return

    def _train(self, wanted: Mapping[int, Sequence[int]], until: int) -> bool:
        """Whether all these runs have come so far; then who failed on the way is out."""
        race = self._race
        asks = [Ask(each, seed, until) for each, seeds in wanted.items() for seed in seeds]
        for ask in asks:
            before = race.asked.get((ask.candidate, ask.seed), 0)
            race.asked[ask.candidate, ask.seed] = max(until, before)
        race.missing = [ask for ask in asks if not self._run(ask).has(until)]
        if race.missing:
            return False
        race.failed |= {a.candidate for a in asks if (r := self._run(a)).failed and r.ended(until)}
        race.left = [each for each in race.left if each not in race.failed]
        return True

    def _run(self, ask: Ask) -> Run:
        return self._runs[ask.candidate].get(ask.seed, Run(()))

    def _values(self, candidate: int, seeds: Sequence[int], epoch: int) -> list[float]:
        return [self._runs[candidate][seed].at(epoch) for seed in seeds]

    def _look(self, epoch: int) -> None:
        """Drops who is behind for sure, now and at the end."""
        race, seeds = self._race, range(FIRST_SEEDS)
        now = [self._values(each, seeds, epoch) for each in race.left]
        then = [[self._at_end(each, seed, epoch) for seed in seeds] for each in race.left]
        lead = _lowest(now)
        standings = []
        for each, own, gap, at_end in zip(
            race.left, now, _gaps(now, lead), _gaps(then, lead), strict=True
        ):
            is_lead = each == race.left[lead]
            standings.append(
                Standing(each, FIRST_SEEDS, float(np.mean(own)), gap.mean,
                         None if is_lead else gap.least, None if is_lead else at_end.least,
                         not is_lead and gap.least > 0 and at_end.least > 0)
            )  # fmt: skip
        look = Look(epoch, standings)
        race.looks.append(look)
        race.dropped |= {standing.candidate: look for standing in standings if standing.out}
        race.left = [standing.candidate for standing in standings if not standing.out]

    def _at_end(self, candidate: int, seed: int, epoch: int) -> float:
        """A run's value at the last epoch, by its gain since half the epochs."""
        run, half = self._runs[candidate][seed], epoch // 2
        value = run.at(epoch)
        if run.ended(epoch) and not run.failed:
            return value
        doublings = math.log2(self._rules.epochs / epoch) / math.log2(epoch / half)
        return value - GAIN * (run.at(half) - value) * doublings

    def _compare(self) -> list[int]:
        """The leader at the last epoch, and who cannot be told from it."""
        race, epoch = self._race, self._rules.epochs
        values = [self._values(each, race.seeds(each), epoch) for each in race.left]
        lead = _lowest(values)
        standings = []
        for each, own in zip(race.left, values, strict=True):
            behind, half = lead_of_seeds(own, values[lead])
            is_lead = each == race.left[lead]
            standings.append(
                Standing(each, len(own), float(np.mean(own)), behind,
                         None if is_lead else behind - half, None,
                         not is_lead and behind > half)
            )  # fmt: skip
        race.looks.append(Look(epoch, standings))
        return [standing.candidate for standing in standings if not standing.out]


def _lowest(values: Sequence[Sequence[float]]) -> int:
    means = [float(np.mean(each)) for each in values]
    return means.index(min(means))


class _Gap(NamedTuple):
    mean: float
    least: float


def _gaps(values: Sequence[Sequence[float]], lead: int) -> list[_Gap]:
    """How far each is behind, and at least so; Student's t with the seeds' variance pooled."""
    from scipy.special import stdtrit  # scipy.stats takes half a second more

    table = np.asarray(values)  # (candidates, seeds)
    candidates, seeds = table.shape
    behind = table.mean(axis=1) - table.mean(axis=1)[lead]
    error = math.sqrt(float(table.var(axis=1, ddof=1).mean()) * 2 / seeds)
    half = float(stdtrit(candidates * (seeds - 1), 1 - LEVEL)) * error
    return [_Gap(mean, mean - half) for mean in behind.tolist()]
