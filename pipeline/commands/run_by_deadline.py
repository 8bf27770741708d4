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
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path

from pipeline.commands.run_stage import run_stage, say
from pipeline.errors import OutOfTime
from pipeline.files import atomic_folder, atomic_path
from pipeline.paths import STAGES, Paths
from pipeline.results.record import RECORD, is_current, is_made
from pipeline.settings import deadline
from pipeline.settings.machine import Machine
from pipeline.settings.snapshot import save
from pipeline.settings.space import Space
from pipeline.study.budget import WORDS, Budget, budget_of, with_budget
from pipeline.study.storage.ledger import Ledger, storage_url
from pipeline.study.storage.workers import resume_cancelled
from pipeline.sync.follow import following
from pipeline.work.budget_by_deadline import Reserve
from pipeline.work.budget_file import as_made, keep_budget
from pipeline.work.owners import is_gone, owner_name

ASIDE = "aside-"  # of folders, with outputs in NAME; a killed command leaves one with its OWNER
OWNER, UNFINISHED = ".owner", ".unfinished"
WHEN = {
    "prepare": "before the data were prepared",
    "search": "before the search could close",
    "retrain": "before a candidate was retrained",
    "evaluate": "before the winner was measured",
    "render": "before the report was written",
}


def answer(asked: Space, machine: Machine, paths: Paths, file: Space | None = None) -> Space:
    """Runs the stages by `machine.until`; the space with the budget that the outputs have.

    `file` is that of the sweep's file, where another budget than its own is asked for. Raises
    OutOfTime if there is no report by then. If there was one, all outputs are as they were.
    """
    with _as_before_unless_done(paths) as put_back:
        save(asked, paths, "prepare")
        with (
            following(asked, machine, paths, "prepare") as ended,
            put_back,  # before MLflow is brought up to date
            closing(Ledger(storage_url(machine, paths))) as ledger,
        ):
            return _answer(asked, machine, paths, file or asked, ledger, ended)


def _answer(
    asked: Space,
    machine: Machine,
    paths: Paths,
    file: Space,
    ledger: Ledger,
    ended: Callable[[str], None],
) -> Space:
    resume_cancelled(ledger, asked.name)
    _run("prepare", asked, machine, paths)
    ended("prepare")
    reserve = None
    if machine.until:
        reserve = Reserve(asked, machine.until, machine, paths, ledger, _stands(file, paths))
    space = _closing("search", asked, machine, paths, reserve)
    keep_budget(file, space, paths)
    ended("search")
    if not is_current("retrain", space, paths):
        if reserve:
            space = _closed("retrain", space, reserve.affordable(), reserve, paths)
        space = _closing("retrain", space, machine, paths, reserve)
    keep_budget(file, space, paths)
    ended("retrain")
    for stage in ("evaluate", "render"):
        if not is_current(stage, space, paths):
            _run(stage, space, machine, paths)
        ended(stage)
    return space


def _stands(file: Space, paths: Paths) -> int:
    """How many trials the report is of that there is."""
    made = as_made(file, paths)
    return made.search.trials if is_current("render", made, paths) else 0


def _run(stage: str, space: Space, machine: Machine, paths: Paths) -> None:
    """Runs a stage to its end. Raises OutOfTime."""
    try:
        if machine.until and deadline.now() >= machine.until:
            raise OutOfTime
        run_stage(stage, space, machine, paths)
    except OutOfTime:
        raise _too_late(stage, space, machine, paths) from None


def _closing(
    stage: str, space: Space, machine: Machine, paths: Paths, reserve: Reserve | None
) -> Space:
    """Runs search or retrain, which closes when its share of the time is over; the space with the
    budget that its output then has."""
    if reserve is None:
        run_stage(stage, space, machine, paths)
        return space
    late, closes = {
        "search": (reserve.search_is_over, reserve.searched),
        "retrain": (reserve.retrain_is_over, reserve.retrained),
    }[stage]
    try:
        run_stage(stage, space, machine, paths, late=late)
        return space
    except OutOfTime:
        budget = None if reserve.left() <= 0 else closes()
        if budget is None:
            raise _too_late(stage, space, machine, paths) from None
    closed = _closed(stage, space, budget, reserve, paths)
    _run(stage, closed, machine, paths)
    return closed


def _closed(stage: str, space: Space, budget: Budget, reserve: Reserve, paths: Paths) -> Space:
    """The space with a budget, of which it is said if it is less than is asked for."""
    asked, closed = budget_of(space), with_budget(space, budget)
    if closed == space:
        return space
    chosen = " on ".join(f"{budget[key]} of {asked[key]} {WORDS[key]}" for key in budget)
    by = deadline.shown(reserve.until)
    say(f"{stage} {space.name}: closes with {chosen}, to have an answer by {by}")
    save(closed, paths, stage)
    return closed


def _too_late(stage: str, space: Space, machine: Machine, paths: Paths) -> OutOfTime:
    assert machine.until is not None
    stands = "; the winner and the report of before stand" if is_made(paths, "render") else ""
    return OutOfTime(
        f"run {space.name}: no new answer by {deadline.shown(machine.until)}: the time was up"
        f" {WHEN[stage]}{stands}; nothing is lost: the same command goes on"
    )


@contextmanager
def _as_before_unless_done(paths: Paths) -> Iterator[AbstractContextManager[None]]:
    """Puts all outputs back if the block fails where a report was made: that one stands, and so
    must what it was made from. So does what the block is given, when it fails itself.

    They wait in a folder on the same disk, on which a link is all that a copy takes. What a command
    could not put back, as it was killed or the disk is full, the next one does before it begins.
    """
    paths.state.mkdir(parents=True, exist_ok=True)
    for left in paths.state.glob(f"{ASIDE}*/{paths.name}"):
        if is_gone((left.parent / OWNER).read_text()):
            _put_back(paths, left)
    aside = Path(tempfile.mkdtemp(prefix=ASIDE, dir=paths.state))
    kept = aside / paths.name

    @contextmanager
    def put_back() -> Iterator[None]:
        try:
            yield
        except BaseException:
            _put_back(paths, kept)
            raise

    with put_back():
        (aside / OWNER).write_text(owner_name(os.getpid()))
        _put_aside(paths, aside / UNFINISHED)
        (aside / UNFINISHED).rename(kept)
        yield put_back()
    _drop(kept)


def _places(paths: Paths) -> list[Path]:
    return [*map(paths.stage, STAGES), paths.settings, paths.budget]


def _put_aside(paths: Paths, folder: Path) -> None:
    """Copies what another command at work has put aside, as outputs may be half-way its own by
    now; else the outputs."""
    for other in paths.state.glob(f"{ASIDE}*/{paths.name}"):
        if _stands_since(paths, other):
            try:
                _copy(other, folder)
                return
            except OSError:
                if other.exists():
                    raise
                shutil.rmtree(folder)  # it has ended meanwhile
    folder.mkdir()
    for place in filter(Path.exists, _places(paths)):
        _copy(place, folder / place.name)


def _stands_since(paths: Paths, kept: Path) -> bool:
    """Whether the report is the one that was put aside."""
    records = [kept / "render" / RECORD, paths.render / RECORD]
    made = is_made(paths, "render") and all(record.exists() for record in records)
    return made and records[0].read_bytes() == records[1].read_bytes()


def _put_back(paths: Paths, kept: Path) -> None:
    """Nothing if there was no report, or if there is another one by now, as another host's."""
    if _stands_since(paths, kept):
        for place in _places(paths):
            copy = kept / place.name
            if copy.is_dir():
                with atomic_folder(place) as new:
                    _copy(copy, new)
            elif copy.exists():
                with atomic_path(place) as new:
                    shutil.copyfile(copy, new)
            elif not place.is_symlink():
                shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    _drop(kept)


def _drop(kept: Path) -> None:
    """Whenever it is killed, outputs that are aside are whole, or unfinished by their name."""
    with suppress(FileNotFoundError):
        kept.rename(kept.with_name(UNFINISHED))
    shutil.rmtree(kept.parent, ignore_errors=True)


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
