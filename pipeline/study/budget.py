"""The budget of a sweep: how many trials, how many candidates, how many fresh seeds.

A deadline is a way to choose it. What has ended by then is asked for which budget it is all of, and
the sweep goes on as if search_spaces/NAME.yaml had said that one: its outputs are those bytes.
`pipeline.work.budget_file` keeps what was chosen in place of what the file says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.results.states import State
from pipeline.settings.space import Space
from pipeline.study.ranking import ranked
from pipeline.study.search.plan import Planner
from pipeline.study.storage.rows import Part, trials_of

KEYS = (("search", "trials"), ("retrain", "top"), ("retrain", "seeds"))
WORDS = {"search.trials": "trials", "retrain.top": "candidates", "retrain.seeds": "seeds"}
LEAST_SEEDS = 2  # one seed tells nothing about its noise

Budget = dict[str, int]


def budget_of(space: Space) -> Budget:
    """The budget that a space has, as `search.trials` and so on."""
    return {f"{section}.{key}": getattr(getattr(space, section), key) for section, key in KEYS}


def with_budget(space: Space, budget: Budget) -> Space:
    """The same space with these parts of the budget in place of its own."""
    for section, key in KEYS:
        if (name := f"{section}.{key}") in budget:
            changed = getattr(space, section).model_copy(update={key: budget[name]})
            space = space.model_copy(update={section: changed})
    return space


def budget_text(asked: Space, made: Space) -> str:
    """What was chosen of what is asked for: `12 of 24 trials` and so on."""
    file, chosen = budget_of(asked), budget_of(made)
    return ", ".join(
        f"{chosen[name]} of {file[name]} {word}"
        for name, word in WORDS.items()
        if chosen[name] != file[name]
    )


def finished_trials(space: Space, parts: Sequence[Part]) -> int:
    """The most trials whose search, had no more been asked for, has ended and has a ranking.

    0: there is none, or nothing is searched.
    """
    first = next((p.trial for p in parts if p.state == State.RUNNING and not p.since), None)
    begun = max((part.trial + 1 for part in parts), default=0)
    most = min(space.search.trials, begun if first is None else first)
    for trials in range(most, 0, -1):
        planner = Planner(with_budget(space, {"search.trials": trials}))
        planner.update(parts)
        if planner.finished:
            found = ranked(trials_of(planner.parts)) or space.search.fallback is not None
            return trials if found else 0
    return 0


def most_runs(space: Space, candidates: int, holds: Callable[[Space], bool]) -> Budget | None:
    """The most candidates, and then seeds, for whose retraining `holds` is true; None: not for
    one's on two seeds."""
    for top in range(min(space.retrain.top, candidates), 0, -1):
        for seeds in range(space.retrain.seeds, min(LEAST_SEEDS, space.retrain.seeds) - 1, -1):
            budget = {"retrain.top": top, "retrain.seeds": seeds}
            if holds(with_budget(space, budget)):
                return budget
    return None
