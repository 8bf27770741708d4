"""Where the parameters of a search's trials came from."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from pipeline.results.states import State
from pipeline.settings.hyperparameters import Value
from pipeline.settings.search_section import Search
from pipeline.settings.space import Space
from pipeline.study.search.informing import informed
from pipeline.study.search.plan import Known, Planner
from pipeline.study.search.propose import draws_at_random, given_settings
from pipeline.study.storage.rows import Part


class Source(StrEnum):
    """What gave a trial its parameters."""

    KEPT = "kept"  # a trial of an earlier study
    GIVEN = "given"  # `search.enqueue`, the centre, a cell of a grid
    DRAWN = "drawn"  # at random
    INFORMED = "informed"  # by observations of other data, another likelihood or budget
    PROPOSED = "proposed"  # by a sampler, from what other trials have come to


def sources(
    space: Space,
    parts: Sequence[Part],
    informing: Sequence[dict[str, Value]] = (),
) -> list[Source]:
    """Of every trial, in order; plays the search forward. `informing` as a `Proposer` is told."""
    planner = Planner(space)
    found: list[Source] = []
    for part in parts:
        if part.kept:
            found.append(Source.KEPT)
            planner.update([part])
            continue
        planner.next()  # takes in what had ended by its start
        if part.since == 0:
            found.append(_source(space, planner, informing, part.parameters))
        planner.update([part])
    return found


def _source(
    space: Space,
    planner: Planner,
    informing: Sequence[dict[str, Value]],
    chosen: dict[str, Value] | None,
) -> Source:
    search, seen = space.search, planner.trials
    given = given_settings(space.searched, search, planner.kept)
    after = len(seen) - len(planner.kept) - len(given)
    if search.sampler == "grid" or (after < 0 and given[after] == chosen):
        return Source.GIVEN
    if after >= 0 and informed(informing, planner, after):
        return Source.INFORMED
    if after < 0 or draws_at_random(search, len(seen)) or not _learns(search, seen):
        return Source.DRAWN
    return Source.PROPOSED


def _learns(search: Search, seen: Sequence[Known]) -> bool:
    """Whether a sampler has seen enough trials, as Optuna's counts them."""
    counted = [State.COMPLETE]
    if search.sampler == "tpe":
        counted += [State.PAUSED, State.PRUNED]
    return sum(trial.state in counted for trial in seen) >= search.startup_trials
