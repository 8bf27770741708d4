"""Comparing candidates that were trained on several seeds and measured on the same images.

A candidate's NELBOs are a matrix (seeds, images) in nats; all are measured with the same noise on
the same images in the same order. Two sources of error are told apart. *Images*: the validation
images are a sample, but the same for all, so the difference is taken image by image and what makes
an image hard for every model cancels. *Seeds*: another seed gives another model; this error is the
larger one, and no number of images makes it smaller.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95

Matrix = NDArray[np.float64]  # (seeds, images), nats


@dataclass(frozen=True)
class Difference:
    """How much worse a candidate is than another, in nats, and what that is uncertain by.

    The errors are standard errors. With a single seed on either side nothing is known of the seeds,
    with a single image nothing of images: that error and the ends of the 95 % interval are NaN.
    """

    mean: float
    seed_error: float
    image_error: float
    low: float
    high: float


def difference(candidate: Matrix, other: Matrix) -> Difference:
    """The mean difference and its interval, for new seeds and new images alike.

    The variances of both candidates' seeds (Welch 1947) and of the paired images are added, the
    degrees of freedom are Satterthwaite's (1946). The interaction of seeds and images is counted
    in both; it is small, and the interval errs on the cautious side.
    """
    mean = float(candidate.mean() - other.mean())
    seeds, images = (
        _seed_variance(candidate) + _seed_variance(other),
        _pair_variance(candidate, other),
    )
    half = _half_width(candidate, other, _seed_variance(candidate))
    return Difference(mean, math.sqrt(seeds), math.sqrt(images), mean - half, mean + half)


def within_noise(candidate: Matrix, leader: Matrix) -> bool:
    """Whether the leader's lead may be chance (95 %, two-sided); never with a single seed or image.

    As `difference`, but a candidate whose seeds scatter more than the leader's is granted no more
    than the leader's scatter: being unstable is no reason for a tie.
    """
    granted = min(_seed_variance(candidate), _seed_variance(leader))
    return bool(candidate.mean() - leader.mean() <= _half_width(candidate, leader, granted))


def lead_of_seeds(candidate: Sequence[float], leader: Sequence[float]) -> tuple[float, float]:
    """How far a candidate is behind in nats, and the half width that makes it noise of the seeds.

    The rule of `within_noise` for means over images: the error of images, which more seeds do not
    make smaller, is left out.
    """
    variances = [float(np.var(values, ddof=1)) / len(values) for values in (candidate, leader)]
    granted = [min(variances), variances[1]]
    half = _t_half_width(granted, [len(candidate) - 1, len(leader) - 1])
    return float(np.mean(candidate) - np.mean(leader)), half


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % t interval of a mean over seeds; None for a single value or an infinite one."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    mean, variance = float(np.mean(values)), float(np.var(values, ddof=1)) / len(values)
    half = _t_half_width([variance], [len(values) - 1])
    return mean - half, mean + half


def chance(gain: float, variances: list[float], freedoms: list[int]) -> float:
    """The one-sided p of a gain in nats: how often seeds alone give one as large.

    The errors are a sum of independent parts with these variances (Welch–Satterthwaite).
    """
    from scipy.special import stdtr

    total = sum(variances)
    if total == 0:
        return 0.0 if gain > 0 else 1.0
    return float(stdtr(_freedom(variances, freedoms), -gain / math.sqrt(total)))


def _half_width(candidate: Matrix, other: Matrix, seed_variance: float) -> float:
    """Of the interval of the difference, if the candidate's mean had this variance over seeds."""
    freedoms = [len(candidate) - 1, len(other) - 1, candidate.shape[1] - 1]
    if 0 in freedoms:
        return math.nan
    variances = [seed_variance, _seed_variance(other), _pair_variance(candidate, other)]
    return _t_half_width(variances, freedoms)


def _t_half_width(variances: list[float], freedoms: list[int]) -> float:
    """Of the interval of a sum of independent parts (Welch–Satterthwaite)."""
    from scipy.special import stdtrit

    total = sum(variances)
    if total == 0:
        return 0.0
    return float(stdtrit(_freedom(variances, freedoms), (1 + CONFIDENCE) / 2)) * math.sqrt(total)


def _freedom(variances: list[float], freedoms: list[int]) -> float:
    """The degrees of freedom of the sum (Satterthwaite 1946)."""
    return sum(variances) ** 2 / sum(v**2 / f for v, f in zip(variances, freedoms, strict=True))


def _seed_variance(values: Matrix) -> float:
    """Of the mean over all images, as an estimate from so many seeds; NaN for a single seed."""
    seeds = len(values)
    return float(values.mean(axis=1).var(ddof=1)) / seeds if seeds > 1 else math.nan


def _pair_variance(candidate: Matrix, other: Matrix) -> float:
    """Of the mean difference, estimated from the images that both have seen; NaN for one."""
    paired: Matrix = candidate.mean(axis=0) - other.mean(axis=0)
    return float(paired.var(ddof=1)) / paired.size if paired.size > 1 else math.nan
