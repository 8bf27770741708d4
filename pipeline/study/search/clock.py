"""The virtual clock: when a part of a search starts, as a pure function of the parts before it.

`parallelism: P` means P virtual workers, each of which takes the next part as soon as it is free. A
part lasts (epochs trained) × (the cost of an epoch), where the cost is a formula of its parameters,
never a measured time; ties are broken by the numbers. Part n starts when the first virtual worker
is free, and has seen what had ended by then. Real workers, however many and fast, only have to
wait until that is certain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.settings.hyperparameters import Value
from pipeline.settings.space import Space

Cost = Callable[[dict[str, Value]], int]  # of an epoch, by the searched parameters


def cost_of(space: Space, shape: tuple[int, int, int], images: int) -> Cost:
    """What an epoch over so many images (C, H, W) costs."""
    from pipeline.vae.cost import epoch_cost
    from pipeline.vae.setting import read_setting

    return lambda chosen: epoch_cost(read_setting(space.record(chosen)), shape, images)


@dataclass(frozen=True)
class Place:
    """Where a part stands on the clock."""

    starts: int  # in the units of costs
    follows: int | None  # the part whose end has freed its virtual worker; None for the first P


class Clock:
    """Knows of each virtual worker when its last part ends, or the earliest that it can."""

    def __init__(self, workers: float):
        self._workers = workers
        self._ends: dict[int, tuple[int, bool]] = {}  # by part: when, and whether that is certain

    @property
    def open(self) -> list[int]:
        """The parts that no other has followed yet, at most as many as there are workers."""
        return list(self._ends)

    def next(self) -> Place | None:
        """The place of the next part; None: not certain yet."""
        if len(self._ends) < self._workers:
            return Place(0, None)
        first = min(self._ends, key=lambda number: (self._ends[number][0], number))
        end, certain = self._ends[first]
        return Place(end, first) if certain else None

    def begin(self, number: int, place: Place) -> None:
        """The part takes its place."""
        if place.follows is not None:
            del self._ends[place.follows]
        self._ends[number] = place.starts, False

    def tell(self, number: int, end: int, *, certain: bool) -> None:
        """When an open part has ended (`certain`), or the earliest that it can."""
        self._ends[number] = end, certain
