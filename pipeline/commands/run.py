"""The stages as commands: one of them, or all five, which end with an answer by the deadline."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from pipeline.commands.run_stage import interruptible, run_stage
from pipeline.paths import STAGES, Paths
from pipeline.results.record import open_inputs
from pipeline.settings.machine import Machine
from pipeline.settings.snapshot import open_settings, save, under_dvc
from pipeline.settings.space import Space

BUDGETED = ("search", "retrain")  # whose outputs have a budget
COMPUTING = {*BUDGETED, "evaluate"}  # on the device


def run_stages(stages: tuple[str, ...], root: Path, name: str, machine: Machine) -> str:
    """Runs stages of a sweep; the result in words where they end with one.

    Raises UserError; Interrupted, also at `machine.until` where there is no answer by then.
    """
    paths = Paths(root, name)
    file = space = open_settings(stages[0], paths)
    if STAGES.index(stages[0]) > STAGES.index("search") and not under_dvc(stages[0], name):
        from pipeline.work.budget_file import as_made

        space = as_made(space, paths)
    open_inputs(stages[0], space, paths)
    if COMPUTING & set(stages):
        from pipeline.work.cards import check_device

        check_device(machine)
    if stages == STAGES and machine.until is not None:
        from pipeline.commands.run_by_deadline import answer

        with interruptible("run", space):
            space = answer(space, machine, paths)
    else:
        save(space, paths, stages[0])
        _run_all(stages, file, space, machine, paths)
    if stages[-1] not in ("evaluate", "render"):
        return ""
    from pipeline.commands.run_result import result_text

    return result_text(space, machine, paths, stages[-1])


def _run_all(
    stages: tuple[str, ...], file: Space, space: Space, machine: Machine, paths: Paths
) -> None:
    """With the budget of the space, which may be another than the file's."""
    if stages == ("prepare",):
        run_stage("prepare", space, machine, paths)
        return
    from pipeline.study.storage.ledger import Ledger, storage_url
    from pipeline.study.storage.workers import resume_cancelled
    from pipeline.sync.follow import following
    from pipeline.work.budget_file import keep_budget

    if any(stage in BUDGETED for stage in stages):
        with (
            interruptible(stages[0], space),
            closing(Ledger(storage_url(machine, paths))) as ledger,
        ):
            resume_cancelled(ledger, space.name)
    before = STAGES[max(STAGES.index(stages[0]) - 1, 0)]
    with following(space, machine, paths, before) as ended:
        for stage in stages:
            run_stage(stage, space, machine, paths)
            if stage in BUDGETED:
                keep_budget(file, space, paths)
            ended(stage)
