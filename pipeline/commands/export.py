"""`export`: the search of a sweep as a study of Optuna's own."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import UserError
from pipeline.files import read_json
from pipeline.paths import Paths
from pipeline.record import open_stage
from pipeline.settings.machine import Machine
from pipeline.settings.space import load_space
from pipeline.study.export import export
from pipeline.study.identity import search_study
from pipeline.study.plan import belonging
from pipeline.study.reading import reading
from pipeline.study.rows import trials_of
from pipeline.work.budget_file import as_worked_on


def export_text(root: Path, machine: Machine, name: str, url: str) -> str:
    """Exports the trials of the ledger; says what is there now. Raises UserError."""
    paths = Paths(root, name)
    space = as_worked_on(load_space(root, name), paths)
    open_stage(paths, "prepare", [paths.manifest.name])
    study = search_study(space, read_json(paths.manifest)["sha256"])
    with reading(machine, paths) as ledger:
        trials = trials_of(belonging(space, ledger.parts(study.id)))
    if not trials:
        raise UserError(
            f"export {name}: no trial yet: run `python -m pipeline search {name}` first"
        )
    done = export(space, study.id, trials, url)
    return f"{done.study}: {done.trials} trials in Optuna's storage, {done.written} of them new"
