"""Which trial goes on: asynchronous successive halving by promotion, on a ladder of rungs.

After Li et al. (arXiv 1810.05934): a trial pauses at each rung, and goes on once it is among the
best 1/factor of all that have reached that rung. Here the highest rung with such a trial is served
first, and the first trial of a rung always goes on, so that there is a model from the start.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence


class Ladder:
    """The trials by rung. Values are validation NELBOs in nats: lower is better."""

    def __init__(self, rungs: Sequence[int], factor: int):
        """`rungs` are the epochs at which trials pause; the last is where they end."""
        self.rungs = list(rungs)
        self._factor = factor
        self._reached: list[list[tuple[float, int]]] = [[] for _ in rungs]  # each in order
        self._left: list[set[int]] = [set() for _ in rungs]  # for the next one, or for good

    def first(self, epoch: int) -> int:
        """The rung at which a trial pauses first whose values count from `epoch` on."""
        return next((rung for rung in self.rungs if rung >= epoch), self.rungs[-1])

    def add(self, trial: int, epochs: int, value: float, *, ended: bool) -> None:
        """A trial has come to `epochs` epochs.

        One that has `ended` there by itself keeps its value: it counts on the higher rungs too.
        """
        for index, rung in enumerate(self.rungs):
            if ended and rung >= epochs:
                insort(self._reached[index], (value, trial))
                self._left[index].add(trial)
            elif rung == epochs:
                insort(self._reached[index], (value, trial))

    def promote(self) -> tuple[int, int] | None:
        """The trial that goes on, and until which epoch; None: no one deserves it by now."""
        for index in reversed(range(len(self.rungs) - 1)):
            reached = self._reached[index]
            for _, trial in reached[: max(1, len(reached) // self._factor)]:
                if trial not in self._left[index]:
                    return trial, self.rungs[index + 1]
        return None

    def leave(self, trial: int, until: int) -> None:
        """The trial has left for the rung at `until`."""
        self._left[self.rungs.index(until) - 1].add(trial)
