"""runs/NAME/budget.json: the budget that outputs were made with, where the file says another."""

from __future__ import annotations

from typing import Any

from pipeline.errors import UserError
from pipeline.files import read_json, write_json
from pipeline.paths import Paths
from pipeline.results.record import is_made, read_record
from pipeline.settings.space import Space
from pipeline.study.budget import budget_of, with_budget


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
