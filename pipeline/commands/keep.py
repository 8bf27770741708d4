"""`keep`: the finished trials of earlier searches, written beside the space as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.files import read_json, write_text
from pipeline.paths import Paths
from pipeline.results.states import Kind
from pipeline.settings.machine import Machine
from pipeline.settings.observations import SUFFIX
from pipeline.settings.space import NAME, Space
from pipeline.study.identity import TRAINING_SEMANTICS, search_study
from pipeline.study.search.kept_from_ledger import contradictions, kept_of, merged, origin_of
from pipeline.study.search.kept_table import Kept, Origin, table_text
from pipeline.study.storage.ledger import Ledger
from pipeline.study.storage.outages import PATIENCE_SECONDS
from pipeline.study.storage.readonly import reading

if TYPE_CHECKING:
    from pipeline.study.search.beginning import Beginning


def keep(root: Path, machine: Machine, name: str, only: Sequence[str] = ()) -> list[str]:
    """Writes search_spaces/NAME.trials.jsonl of a sweep's studies; says what it has.

    These are its latest and all that can be compared with it, or those named.

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
    text = table_text(list(origins.values()), [kept.line for kept in found])
    another = (root / file).exists() and (root / file).read_bytes() != text.encode()
    write_text(root / file, text)
    for study, trials in tables.items():
        lines.append(f"study {study}: {len(trials)} finished trials")
    lines += contradictions(tables.values())
    if another:
        lines.append(f"{file} was another table: a search that names it begins anew with this one")
    return [
        *lines,
        f"{file}: {len(found)} trials of {_of(found[-1].origin)}: commit it, and begin a search"
        f" with them by `observations: {file}` under `search`",
    ]


def _of(origin: Origin) -> str:
    """Of which data and model all trials of a table are."""
    model = ", ".join(f"{key} {value}" for key, value in origin.model.items() if value is not None)
    return f"data {origin.data[:12]}, {model}"


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
    wanted = [study for study in known if not only or study in only]
    unlike = {study: why for study in wanted if (why := _unlike(known, study, wanted[-1]))}
    if only and unlike:
        study, why = next(iter(unlike.items()))
        raise UserError(f"keep {name}: --study: {study} has {why}: keep them one at a time")
    chosen = [study for study in wanted if study not in unlike]
    return chosen, [f"study {study}: left out, as it has {why}" for study, why in unlike.items()]


def _unlike(known: dict[str, dict[str, Any]], study: str, last: str) -> str:
    """What trials of a study cannot be compared for with those of the last one; empty if they can.

    Raises UserError if they are of a version whose trials none can be compared with.
    """
    if known[last].get("training_semantics") != TRAINING_SEMANTICS:
        raise UserError(
            f"keep: study {last} was trained by another version of the program, whose trials cannot"
            " be compared: choose another, or search again first"
        )
    if known[study].get("training_semantics") != TRAINING_SEMANTICS:
        return "another version of training"
    one, other = origin_of(study, known[study]), origin_of(last, known[last])
    for key in ("data", "model", "epochs", "objectives"):
        if getattr(one, key) != getattr(other, key):
            return f"other {key} than {last}"
    return ""


def _trials(ledger: Ledger, study: str) -> list[Kept]:
    found = ledger.find_study(study)
    assert found
    spec = found[1]
    return kept_of(origin_of(study, spec), spec["search"]["seed"], ledger.parts(study))


def begins(space: Space, paths: Paths) -> Beginning | None:
    """What a search begins with; None: there is no table, or `prepare` has not run.

    Raises UserError for a table that is broken, or of no use.
    """
    if space.search.observations is None or not paths.manifest.exists():
        return None
    from pipeline.study.search.beginning import beginning

    manifest = read_json(paths.manifest)
    return beginning(space, paths, search_study(space, manifest["sha256"]).id, manifest)


def kept_text(space: Space, paths: Paths, found: Beginning | None) -> str:
    """What `check` says of the table that a space names; empty if it has none.

    Raises UserError for a table that is broken.
    """
    if (given := space.search.observations) is None:
        return ""
    if found:
        return f"  kept       {found.text()}"
    from pipeline.study.search.beginning import table_of

    said = f"{len(table_of(given, paths, space.name))} kept trials: how many count is told"
    return f"  kept       {said} once `prepare` has run"
