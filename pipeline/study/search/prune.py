"""Pruning decisions, each a pure function of the trial's own epochs and of a fixed set of others.

The others are the latest that had ended when the trial began on the virtual clock, so a decision
does not depend on the number of workers or on their timing. All values are β = 1 validation NELBOs
in nats: lower is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.settings.search_section import PRUNERS, Search


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
    search: Search, own: Sequence[float], others: Sequence[Curve], first_epoch: int
) -> bool:
    """Whether a trial ends after its epochs `own`, by the median rule or that of a percentile.

    Never before `first_epoch`, the end of its KL warm-up: until then its NELBO says nothing about
    its end, and the true NELBOs of the others would kill it.
    """
    epoch = len(own)
    if search.pruner not in PRUNERS or epoch >= search.epochs:
        return False
    if epoch < max(first_epoch, search.min_epochs):
        return False
    share = 50.0 if search.pruner == "median" else search.percentile
    return _worse_than_share(own, others, share, search.min_trials)


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
