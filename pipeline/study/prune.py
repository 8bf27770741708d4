"""Pruning decisions, each a pure function of the trial's own epochs and of a fixed set of others.

The others are the latest finished trials numbered ≤ number - parallelism, so a decision does not
depend on the number of workers or on their timing. All values are β = 1 validation NELBOs in nats:
lower is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.config import Search


@dataclass(frozen=True)
class Curve:
    """The NELBO after each epoch of a finished trial; `complete` is False for a pruned one."""

    number: int
    values: tuple[float, ...]
    complete: bool

    def at(self, epoch: int) -> float | None:
        """The value after `epoch` (from 1). A trial that stopped early keeps its last value."""
        if epoch <= len(self.values):
            return self.values[epoch - 1]
        return self.values[-1] if self.complete and self.values else None


def should_prune(
    search: Search, number: int, own: Sequence[float], others: Sequence[Curve], first_epoch: int
) -> bool:
    """Whether trial `number` ends after its epochs `own`.

    Never before `first_epoch`, the end of its KL warm-up: until then its NELBO says nothing about
    its end, and the true NELBOs of the others would kill it.
    """
    epoch = len(own)
    if search.pruner == "none" or epoch >= search.epochs:
        return False
    if epoch < max(first_epoch, search.min_epochs):
        return False
    if search.pruner in ("median", "percentile"):
        share = 50.0 if search.pruner == "median" else search.percentile
        return _worse_than_share(own, others, share, search.min_trials)
    first_rung = search.min_epochs
    if search.pruner == "hyperband":
        brackets = bracket_count(search)
        others = [curve for curve in others if (curve.number - number) % brackets == 0]
        first_rung *= search.reduction_factor ** (number % brackets)
    if not _is_rung(epoch, first_rung, search.reduction_factor):
        return False
    return _not_among_best(own, others, search.reduction_factor, search.min_trials)


def bracket_count(search: Search) -> int:
    """Hyperband's brackets: bracket b has its first rung at min_epochs · factor**b."""
    count = 1
    while search.min_epochs * search.reduction_factor**count <= search.epochs:
        count += 1
    return count


def _worse_than_share(
    own: Sequence[float], others: Sequence[Curve], share: float, min_trials: int
) -> bool:
    """Median rule: the best value so far against the complete trials' values at this epoch."""
    values = [curve.at(len(own)) for curve in others if curve.complete]
    known = [value for value in values if value is not None]
    if len(known) < min_trials:
        return False
    return min(own) > _percentile(known, share)


def _percentile(values: list[float], share: float) -> float:
    """Linear between the two nearest ranks, as in numpy."""
    ordered = sorted(values)
    below, part = divmod(share / 100 * (len(ordered) - 1), 1)
    low, high = ordered[int(below)], ordered[min(int(below) + 1, len(ordered) - 1)]
    return low + part * (high - low)


def _is_rung(epoch: int, first: int, factor: int) -> bool:
    rung = first
    while rung < epoch:
        rung *= factor
    return rung == epoch


def _not_among_best(
    own: Sequence[float], others: Sequence[Curve], factor: int, min_trials: int
) -> bool:
    """Successive halving (Li et al., arXiv 1810.05934): the best 1/factor at a rung go on."""
    epoch = len(own)
    values = [curve.at(epoch) for curve in others]
    known = [value for value in values if value is not None]
    if len(known) < min_trials:
        return False
    better = sum(value < own[-1] for value in known)
    return better >= max(1, (len(known) + 1) // factor)
