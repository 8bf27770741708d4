"""Whether a newcomer takes the champion's place, on the night that it comes, for any number of
nights.

All are means of validation NELBOs over seeds, on the same images; the statistic is the one that
the winner of a sweep is chosen by (`pipeline.study.confirmation.compare`). Two things must hold:

1. *All newcomers together*, since the champion has the alias, are better than it: the one-sided p
   of their pooled mean is below LEVEL. The champion is measured once, so its error is the same on
   every night, and the means of later nights move less and less: the smallest p of an endless
   history has a distribution, and LEVEL is below its 5 % point. (A repeated significance test,
   Armitage, McPherson & Rowe 1969, with a constant boundary, as Pocock 1977; on p, because early
   looks have few degrees of freedom. The 5 % points for 2 to 10 seeds on either side, by 20 000
   simulated histories of 300 nights, are 0.0118 for two and two, 0.0148 for three and three, 0.0164
   for five and five; at the extremes, ten for the champion and two a night or the other way round,
   0.0107 and 0.0249.) Hence without a better newcomer the alias moves in at most 5 % of histories,
   however long.
2. *Tonight's newcomer* itself is better: its own one-sided p is below 5 %. This is the second step
   of a closed test (Marcus, Peritz & Gabriel 1976): that others were better promotes nobody.

Seed noise is pooled over the champion and all newcomers, because three seeds tell little of it. A
champion whose seeds scatter significantly more than theirs (F test, 5 %) is judged by its own
scatter. Noise that differs without being that conspicuous costs the promise up to a factor of two.
`python -m bench.champion` repeats the figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.study.confirmation.compare import chance

LEVEL = 0.01  # of all newcomers together, at every look
NEWCOMER_LEVEL = 0.05  # of tonight's alone
SCATTER_LEVEL = 0.05  # at which the champion's scatter is no longer pooled


@dataclass(frozen=True)
class Sample:
    """The validation NELBO over the seeds of one model, in nats per image."""

    mean: float
    sd: float  # sample standard deviation, 0 for one seed
    seeds: int

    @property
    def squares(self) -> float:
        """The sum of squared deviations from the mean, with `seeds` − 1 degrees of freedom."""
        return (self.seeds - 1) * self.sd**2


@dataclass(frozen=True)
class Verdict:
    """Whether tonight's newcomer leads, and what it was judged by."""

    better: bool
    gain: float  # of tonight's newcomer, nats
    p_newcomer: float  # NaN if nothing is known of seed noise
    p_all: float
    nights: int  # newcomers so far, this one included


def succeed(champion: Sample, newcomers: Sequence[Sample]) -> Verdict:
    """Judges the last of the newcomers, which came in this order since the champion leads."""
    tonight = newcomers[-1]
    seeds = sum(each.seeds for each in newcomers)
    mean = sum(each.mean * each.seeds for each in newcomers) / seeds
    p_all = _chance(champion, newcomers, mean, seeds)
    p_newcomer = _chance(champion, newcomers, tonight.mean, tonight.seeds)
    better = p_all < LEVEL and p_newcomer < NEWCOMER_LEVEL  # False for NaN
    return Verdict(better, champion.mean - tonight.mean, p_newcomer, p_all, len(newcomers))


def _chance(champion: Sample, newcomers: Sequence[Sample], mean: float, seeds: int) -> float:
    """Of a mean over so many of the newcomers' seeds that is this low although none is better."""
    theirs = sum(each.squares for each in newcomers)
    freedom = sum(each.seeds - 1 for each in newcomers)
    gain = champion.mean - mean
    if _scatters(champion, theirs, freedom):
        variances = [champion.sd**2 / champion.seeds, theirs / freedom / seeds]
        return chance(gain, variances, [champion.seeds - 1, freedom])
    freedom += champion.seeds - 1
    if freedom == 0:
        return float("nan")
    variance = (theirs + champion.squares) / freedom * (1 / champion.seeds + 1 / seeds)
    return chance(gain, [variance], [freedom])


def _scatters(champion: Sample, theirs: float, freedom: int) -> bool:
    """Whether the champion's variance is significantly larger than the newcomers'."""
    if champion.seeds == 1 or freedom == 0:
        return False
    from scipy.special import fdtri

    limit = float(fdtri(champion.seeds - 1, freedom, 1 - SCATTER_LEVEL))
    return champion.sd**2 > limit * theirs / freedom
