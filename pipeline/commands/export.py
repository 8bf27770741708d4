"""`export`: the search of a sweep as a study of Optuna's own."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import UserError
from pipeline.paths import Paths
from pipeline.results.record import prepared_sha256
from pipeline.settings.machine import Machine
from pipeline.settings.space import load_space
from pipeline.study.identity import search_study
from pipeline.study.storage.readonly import reading
from pipeline.sync.optuna_study import export_search
from pipeline.work.budget_file import as_worked_on


def export_text(root: Path, machine: Machine, name: str, url: str) -> str:
    """Exports the trials of the ledger; says what is there now. Raises UserError."""
    paths = Paths(root, name)
    space = as_worked_on(load_space(root, name), paths)
    study = search_study(space, prepared_sha256(paths))
    with reading(machine, paths) as ledger:
        done = export_search(space, study, ledger, url)
    if done is None:
        raise UserError(
            f"export {name}: no trial yet: run `python -m pipeline search {name}` first"
        )
    return f"{done.study}: {done.trials} trials in Optuna's storage, {done.written} of them new"
