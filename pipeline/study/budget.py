"""The budget of a sweep: how many trials, how many candidates, how many fresh seeds.

A deadline is a way to choose it. What has ended by then is asked for which budget it is all of, and
the sweep goes on as if search_spaces/NAME.yaml had said that one: its outputs are those bytes.
runs/NAME/budget.json keeps what was chosen in place of what the file says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pipeline.errors import UserError
from pipeline.files import read_json, write_json
from pipeline.paths import Paths
from pipeline.record import is_made, read_record
from pipeline.results.states import State
from pipeline.settings.space import Space
from pipeline.study.plan import Planner
from pipeline.study.ranking import ranked
from pipeline.study.rows import Part, trials_of

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


def finished_runs(space: Space, candidates: int, is_over: Callable[[Space], bool]) -> Budget | None:
    """The most candidates, and then seeds, whose retraining `is_over`; None: not one's on two
    seeds."""
    for top in range(min(space.retrain.top, candidates), 0, -1):
        for seeds in range(space.retrain.seeds, min(LEAST_SEEDS, space.retrain.seeds) - 1, -1):
            budget = {"retrain.top": top, "retrain.seeds": seeds}
            if is_over(with_budget(space, budget)):
                return budget
    return None


def keep_budget(asked: Space, made: Space, paths: Paths) -> None:
    """Notes with which budget outputs were made, unless it is the one that the file says."""
    file, chosen = budget_of(asked), budget_of(made)
    if file == chosen:
        paths.budget.unlink(missing_ok=True)
    else:
        write_json(paths.budget, {"file": file, "chosen": chosen})


def as_made(space: Space, paths: Paths) -> Space:
    """The space with the budget that was chosen for the outputs that there are.

    It is the space itself if none was, or if the file's budget or the search's output is another
    by now.
    """
    if not paths.budget.exists() or not is_made(paths, "search"):
        return space
    noted: dict[str, Any] = read_json(paths.budget)
    try:
        file, chosen = noted["file"], {name: noted["chosen"][name] for name in budget_of(space)}
    except (KeyError, TypeError):
        raise UserError(
            f"{paths.budget} holds no budget: remove it, and run `python -m pipeline run"
            f" {paths.name}`"
        ) from None
    made = read_record(paths, "search").settings["search"].get("trials")
    if file != budget_of(space) or made != chosen["search.trials"]:
        return space
    return with_budget(space, chosen)


def as_worked_on(space: Space, paths: Paths) -> Space:
    """The space with all trials that are asked for by the file or were for the outputs."""
    made = as_made(space, paths)
    return made if made.search.trials > space.search.trials else space
