"""Where the parameters of a search's trials came from."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from pipeline.results.states import State
from pipeline.settings.hyperparameters import Value
from pipeline.settings.sections import Search
from pipeline.settings.space import Space
from pipeline.study.plan import Known, Planner
from pipeline.study.propose import draws_at_random, first_settings
from pipeline.study.rows import Part


class Source(StrEnum):
    """What gave a trial its parameters."""

    GIVEN = "given"  # `search.enqueue`, the centre, a cell of a grid
    DRAWN = "drawn"  # at random
    PROPOSED = "proposed"  # by a sampler, from what other trials have come to


def sources(space: Space, parts: Sequence[Part]) -> list[Source]:
    """Of every trial, in order; plays the search forward."""
    planner = Planner(space)
    found: list[Source] = []
    for part in parts:
        planner.next()  # takes in what had ended by its start
        if part.since == 0:
            found.append(_source(space, planner.trials, part.parameters))
        planner.update([part])
    return found


def _source(space: Space, seen: Sequence[Known], chosen: dict[str, Value] | None) -> Source:
    search, number = space.search, len(seen)
    first = first_settings(space.searched, search, number)
    if search.sampler == "grid" or (first is not None and first == chosen):
        return Source.GIVEN
    if first is not None or draws_at_random(search, number) or not _learns(search, seen):
        return Source.DRAWN
    return Source.PROPOSED


def _learns(search: Search, seen: Sequence[Known]) -> bool:
    """Whether a sampler has seen enough trials, as Optuna's counts them."""
    counted = [State.COMPLETE]
    if search.sampler == "tpe":
        counted += [State.PAUSED, State.PRUNED]
    return sum(trial.state in counted for trial in seen) >= search.startup_trials
