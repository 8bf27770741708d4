"""The best of a long study's older trials, kept in order while the study grows."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

from pipeline.results.states import State
from pipeline.study.plan import Known

Key = tuple[bool, int, float, int]


class Elders:
    """Asked again, it only looks at which trials are others than before."""

    def __init__(self) -> None:
        self._known: list[Known] = []
        self._order: list[Key] = []  # of those with a result

    def best(self, trials: Sequence[Known], first: int, count: int) -> list[int]:
        """The numbers of the best `count` trials below `first`, in order."""
        if first < len(self._known):  # another study, or one that was re-opened
            self._known, self._order = [], []
        for number, known in enumerate(self._known):
            if trials[number] is not known:
                self._leave(number, known)
                self._known[number] = trials[number]
                self._enter(number, trials[number])
        for number in range(len(self._known), first):
            self._known.append(trials[number])
            self._enter(number, trials[number])
        return sorted(number for *_, number in self._order[:count])

    def _enter(self, number: int, known: Known) -> None:
        if known.result is not None:
            insort(self._order, _key(number, known))

    def _leave(self, number: int, known: Known) -> None:
        if known.result is not None:
            del self._order[bisect_left(self._order, _key(number, known))]


def _key(number: int, trial: Known) -> Key:
    """As Optuna's TPE orders trials: complete ones by their value, then the deepest."""
    assert trial.result is not None
    value = trial.result["nelbo_nats"]
    return (False, 0, value, number) if trial.state == State.COMPLETE else (
        True, -trial.epochs, value, number)  # fmt: skip
