"""All five stages by a deadline, which chooses the budget of the sweep.

Search and retrain close once the stages after them need what is left of the time, with the largest
budget of which all has ended. From there on the sweep is one of that budget: outputs hold it, and
no clock. The rest is in the ledger, and the next command goes on with it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path

from pipeline.commands.run_stage import run_stage, say
from pipeline.errors import OutOfTime
from pipeline.files import atomic_folder, atomic_path
from pipeline.paths import Paths
from pipeline.record import is_current, is_made
from pipeline.settings.deadline import shown
from pipeline.settings.machine import Machine
from pipeline.settings.snapshot import save
from pipeline.settings.space import Space
from pipeline.study.budget import WORDS, budget_of, with_budget
from pipeline.study.ledger import Ledger, storage_url
from pipeline.study.workers import resume_cancelled
from pipeline.sync.follow import following
from pipeline.work.budget_file import keep_budget
from pipeline.work.reserve import Reserve


def answer(asked: Space, machine: Machine, paths: Paths, file: Space | None = None) -> Space:
    """Runs the stages by `machine.until`; the space with the budget that the outputs have.

    `file` is that of the sweep's file, where another budget than its own is asked for. Raises
    OutOfTime, and leaves the outputs as they were, if there is no winner by then.
    """
    file, free, until = file or asked, machine.model_copy(update={"until": None}), machine.until
    aside = [paths.prepare, paths.search, paths.settings, paths.budget]
    with _as_before_without(paths.retrain, aside, paths.state) as settled:
        save(asked, paths, "prepare")
        with (
            following(asked, machine, paths, "prepare") as ended,
            closing(Ledger(storage_url(machine, paths))) as ledger,
        ):
            resume_cancelled(ledger, asked.name)
            run_stage("prepare", asked, free, paths)
            ended("prepare")
            reserve = Reserve(asked, until, machine, paths, ledger) if until else None
            space = _closing("search", asked, free, paths, reserve)
            keep_budget(file, space, paths)
            ended("search")
            if not is_current("retrain", space, paths):
                space = _closing("retrain", space, free, paths, reserve)
            keep_budget(file, space, paths)
            settled()
            ended("retrain")
            for stage in ("evaluate", "render"):
                if not is_current(stage, space, paths):
                    run_stage(stage, space, free, paths)
                ended(stage)
    return space


def _closing(
    stage: str, space: Space, free: Machine, paths: Paths, reserve: Reserve | None
) -> Space:
    """Runs search or retrain, which closes when its share of the time is over; the space with the
    budget that its output then has."""
    if reserve is None:
        run_stage(stage, space, free, paths)
        return space
    late, closes, why = {
        "search": (reserve.search_is_over, reserve.searched, "before the search could close"),
        "retrain": (reserve.retrain_is_over, reserve.retrained, "before a candidate was retrained"),
    }[stage]
    try:
        run_stage(stage, space, free, paths, late=late)
        return space
    except OutOfTime:
        budget = closes()
        if budget is None or reserve.left() <= 0:
            raise _too_late(space, reserve.until, paths, why) from None
    asked, closed = budget_of(space), with_budget(space, budget)
    chosen = " on ".join(f"{budget[key]} of {asked[key]} {WORDS[key]}" for key in budget)
    say(f"{stage} {space.name}: closes with {chosen}, to have an answer by {shown(reserve.until)}")
    save(closed, paths, stage)
    run_stage(stage, closed, free, paths)
    return closed


def _too_late(space: Space, until: datetime, paths: Paths, when: str) -> OutOfTime:
    stands = "; the winner and the report of before stand" if is_made(paths, "retrain") else ""
    return OutOfTime(
        f"run {space.name}: no new answer by {shown(until)}: the time was up {when}{stands};"
        " nothing is lost: the same command goes on"
    )


@contextmanager
def _as_before_without(
    later: Path, places: list[Path], beside: Path
) -> Iterator[Callable[[], None]]:
    """Puts files and folders back if the block fails before it calls what it is given, where a
    stage after them was made: that one stands, and so must what it was made from.

    They wait in a folder `beside`: on the same disk, on which a link is all that a copy takes.
    """
    settled: list[bool] = []
    beside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="aside-", dir=beside) as folder:
        kept = {place: Path(folder) / place.name for place in places if place.exists()}
        for place, copy in kept.items():
            _copy(place, copy)
        try:
            yield lambda: settled.append(True)
        except BaseException:
            if later.exists() and not settled:
                _put_back(places, kept)
            raise


def _put_back(places: list[Path], kept: dict[Path, Path]) -> None:
    for place in places:
        copy = kept.get(place)
        if copy is None:
            shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        elif copy.is_dir():
            with atomic_folder(place) as new:
                _copy(copy, new)
        else:
            with atomic_path(place) as new:
                shutil.copyfile(copy, new)


def _copy(source: Path, target: Path) -> None:
    """Links to files stand for copies: stages replace their outputs, they never write into them."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link, dirs_exist_ok=True)
    else:
        _link(source, target)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target)
