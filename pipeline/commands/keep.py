"""`keep`: the finished trials of earlier searches, written beside the space as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import UserError
from pipeline.files import read_json, write_text
from pipeline.paths import Paths
from pipeline.results.states import Kind
from pipeline.settings.machine import Machine
from pipeline.settings.observations import SUFFIX
from pipeline.settings.space import NAME, Space
from pipeline.study.identity import TRAINING_SEMANTICS, search_study
from pipeline.study.keeping import kept_of, merged, origin_of
from pipeline.study.kept import Kept, table_text
from pipeline.study.ledger import Ledger
from pipeline.study.patience import PATIENCE_SECONDS
from pipeline.study.reading import reading


def keep(root: Path, machine: Machine, name: str, only: Sequence[str] = ()) -> list[str]:
    """Writes search_spaces/NAME.trials.jsonl of a sweep's studies, all or these; says what it has.

    Raises UserError if there is nothing to keep; then nothing is written.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"keep: must be the name of a sweep, but got {name!r:.80}")
    with reading(machine, Paths(root, name), PATIENCE_SECONDS) as ledger:
        studies, lines = _chosen(ledger, name, only)
        tables = {study: _trials(ledger, study) for study in studies}
    found = merged(tables.values())
    if not found:
        raise UserError(
            f"keep {name}: no trial of {', '.join(tables) or 'any study'} is finished: run"
            f" `python -m pipeline search {name}` first"
        )
    file = f"search_spaces/{name}{SUFFIX}"
    origins = {kept.origin.study: kept.origin for kept in found}
    write_text(root / file, table_text(list(origins.values()), [kept.line for kept in found]))
    for study, trials in tables.items():
        lines.append(f"study {study}: {len(trials)} finished trials")
    return [
        *lines,
        f"{file}: {len(found)} trials: commit it, and begin a search with them by `observations:"
        f" {file}` under `search`",
    ]


def _chosen(ledger: Ledger, name: str, only: Sequence[str]) -> tuple[list[str], list[str]]:
    """The studies to keep, oldest first, and what to say of others. Raises UserError."""
    known = ledger.studies(name, Kind.SEARCH)
    if not known:
        raise UserError(
            f"keep {name}: the ledger has no search of it: run `python -m pipeline search {name}`"
            " first"
        )
    if strange := [study for study in only if study not in known]:
        raise UserError(
            f"keep {name}: --study: must be one of {', '.join(known)}, but got {strange[0]}"
        )
    older = [s for s in only or known if known[s].get("training_semantics") != TRAINING_SEMANTICS]
    if only and older:
        raise UserError(
            f"keep {name}: study {older[0]} was trained by another version of the program, whose"
            " trials cannot be compared: choose another"
        )
    chosen = [study for study in known if (not only or study in only) and study not in older]
    return chosen, [f"study {study}: left out: of another version of training" for study in older]


def _trials(ledger: Ledger, study: str) -> list[Kept]:
    found = ledger.find_study(study)
    assert found
    spec = found[1]
    return kept_of(origin_of(study, spec), spec["search"]["seed"], ledger.parts(study))


def kept_text(space: Space, paths: Paths) -> str:
    """What `check` says of the table that a space begins with; empty if it has none.

    Raises UserError for a table that is broken, or cannot count.
    """
    if (given := space.search.observations) is None:
        return ""
    from pipeline.study.observations import beginning, table_of

    if not paths.manifest.exists():
        said = f"{len(table_of(given, paths, space.name))} kept trials: how many count is told"
        return f"  kept       {said} once `prepare` has run"
    manifest = read_json(paths.manifest)
    shape, images = tuple(manifest["shape"]), manifest["counts"]["train"]
    study = search_study(space, manifest["sha256"]).id
    found = beginning(space, paths, study, manifest["sha256"], shape, images)
    return f"  kept       {found.text()}"
