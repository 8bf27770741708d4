"""What a stage was made with and from, and what it left: runs/NAME/STAGE/record.json.

Whoever reads a stage's output checks it here first; what is damaged, stale or of other inputs is
refused in one line that says which stage to run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import UserError
from pipeline.files import atomic_folder, read_json, recover_folder, sha256_of, write_json
from pipeline.paths import Paths

if TYPE_CHECKING:
    from pipeline.settings.space import Space

RECORD = "record.json"
# The sections that a stage works from beside its inputs, and the stages whose outputs it reads.
SECTIONS = {
    "prepare": ("data",),
    "search": ("model", "parameters", "search"),
    "retrain": ("model", "parameters", "retrain"),
    "evaluate": ("evaluate",),
    "render": ("render",),
}
INPUTS = {
    "prepare": (),
    "search": ("prepare",),
    "retrain": ("prepare", "search"),
    "evaluate": ("prepare", "retrain"),
    "render": ("prepare", "search", "retrain", "evaluate"),
}


class Record(BaseModel):
    """The content of a record.json."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    stage: str
    settings: dict[str, Any]  # section: the values in force, defaults spelled out
    inputs: dict[str, str]  # earlier stage: SHA-256 of its record.json
    outputs: dict[str, str]  # file, relative to the stage's folder: its SHA-256


def settings_of(space: Space) -> dict[str, Any]:
    """Every section of a space as JSON holds it, with the values that are in force."""
    values = {name: space.section(name) for name in space.valid_keys()}
    parts = values["parameters"]
    return {**values, "parameters": space.kind.defaults() | parts["fixed"] | parts["searched"]}


def read_record(paths: Paths, stage: str) -> Record:
    """The record of a stage's output. Raises UserError if there is none or it is damaged."""
    return _read(paths, stage)[0]


def is_made(paths: Paths, stage: str) -> bool:
    """Whether there is an output of the stage at all, be it whole or not.

    DVC empties a folder before its stage runs.
    """
    folder = paths.stage(stage)
    recover_folder(folder)
    return folder.exists() and (not folder.is_dir() or any(folder.glob("[!.]*")))


def open_stage(paths: Paths, stage: str, files: Iterable[str] | None = None) -> Record:
    """The record of a stage whose files, all or those named, are as the stage left them.

    What they were made from is not asked; see `belongs`. Raises UserError.
    """
    record, _ = _read(paths, stage)
    folder = paths.stage(stage)
    for name in record.outputs if files is None else files:
        if name not in record.outputs:
            raise _refusal(paths, stage, name, "is not in record.json")
        try:
            content = sha256_of(folder / name)
        except (FileNotFoundError, NotADirectoryError):
            raise _refusal(paths, stage, name, "is missing") from None
        except IsADirectoryError:
            content = "a folder"
        if content != record.outputs[name]:
            raise _refusal(paths, stage, name, f"is not what {stage} wrote")
    return record


def checked(paths: Paths, file: Path) -> Path:
    """A file of a stage's output, if it is as the stage left it. Raises UserError."""
    open_stage(paths, file.parent.name, [file.name])
    return file


def prepared_sha256(paths: Paths) -> str:
    """The digest of the prepared data. Raises UserError if there are none."""
    digest: str = read_json(checked(paths, paths.manifest))["sha256"]
    return digest


def belongs(paths: Paths, stage: str) -> bool:
    """Whether a stage's output was made from what the earlier stages' folders hold now.

    Raises UserError where a record is damaged.
    """
    chain = _chain(stage)
    return all(is_made(paths, each) and _misfit(paths, each) is None for each in chain)


def is_current(stage: str, space: Space, paths: Paths) -> bool:
    """Whether a stage's output is whole, of these settings, and of the inputs that there are."""
    try:
        record = open_stage(paths, stage)
        made = all(_misfit(paths, each) is None for each in _chain(stage))
    except UserError:
        return False
    return made and _first_difference(record.settings, settings_of(space)) is None


def open_inputs(stage: str, space: Space, paths: Paths, reader: str = "") -> dict[str, str]:
    """Checks all that a stage reads: whole, made from each other, and with the settings of `space`.

    `reader` is who reads what the stage reads. Returns the SHA-256 of the record of each of its
    inputs. Raises UserError, naming the earliest stage to run again.
    """
    now, title = settings_of(space), f"{reader or stage} {paths.name}"
    for earlier in (each for each in _chain(stage) if each != stage):
        again = f"run `python -m pipeline {earlier} {paths.name}` first"
        record = read_record(paths, earlier)
        if difference := _first_difference(record.settings, now):
            key, before, after = difference
            raise UserError(
                f"{title}: {_show(paths, earlier)} was made with {key} {before!r:.80}, but"
                f" search_spaces/{paths.name}.yaml says {after!r:.80}: {again}"
            )
        if other := _misfit(paths, earlier):
            raise UserError(
                f"{title}: {_show(paths, earlier)} was made from another {_show(paths, other)}"
                f" than there is now: {again}"
            )
        if earlier in INPUTS[stage]:
            open_stage(paths, earlier)
    return {earlier: _read(paths, earlier)[1] for earlier in INPUTS[stage]}


@contextmanager
def recorded(stage: str, space: Space, paths: Paths, inputs: dict[str, str]) -> Iterator[Path]:
    """A folder that replaces the stage's with its record, if the block succeeds.

    `inputs` are those of `open_inputs`. Raises UserError if they were replaced meanwhile.
    """
    with atomic_folder(paths.stage(stage)) as folder:
        yield folder
        write_record(folder, stage, space, inputs)
        for earlier, sha256 in inputs.items():
            if _read(paths, earlier)[1] != sha256:
                raise UserError(
                    f"{stage} {paths.name}: {_show(paths, earlier)} was replaced while it was read:"
                    " nothing is written; give the same command again"
                )


def write_record(folder: Path, stage: str, space: Space, inputs: dict[str, str]) -> None:
    """Writes the record of the files that are in a stage's folder."""
    now = settings_of(space)
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    record = Record(
        stage=stage,
        settings={section: now[section] for section in SECTIONS[stage]},
        inputs=inputs,
        outputs={name: sha256_of(folder / name) for name in sorted(names) if name != RECORD},
    )
    write_json(folder / RECORD, record.model_dump())


def _read(paths: Paths, stage: str) -> tuple[Record, str]:
    """A stage's record and its SHA-256."""
    recover_folder(paths.stage(stage))
    file = paths.stage(stage) / RECORD
    try:
        content = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if not is_made(paths, stage):
            raise _refusal(paths, stage, "", "is missing", "first") from None
        raise _refusal(paths, stage, RECORD, "is missing (of an earlier version?)") from None
    except IsADirectoryError:
        raise _refusal(paths, stage, RECORD, "is a folder") from None
    try:
        record = Record.model_validate_json(content)
    except ValidationError:
        raise _refusal(paths, stage, RECORD, "is no record of a stage") from None
    if record.stage != stage or set(record.inputs) != set(INPUTS[stage]):
        raise _refusal(paths, stage, RECORD, f"is no record of {stage}")
    return record, hashlib.sha256(content).hexdigest()


def _chain(stage: str) -> list[str]:
    """A stage and all that it was made from, directly or not, earliest first."""
    needed = {stage}
    for each in reversed(INPUTS):  # every stage reads earlier ones alone
        if each in needed:
            needed |= set(INPUTS[each])
    return [each for each in INPUTS if each in needed]


def _misfit(paths: Paths, stage: str) -> str | None:
    """The input of a stage that is another by now than it was made from, if one is."""
    record = read_record(paths, stage)
    return next((e for e in INPUTS[stage] if _read(paths, e)[1] != record.inputs[e]), None)


def _first_difference(
    old: dict[str, Any], new: dict[str, Any], prefix: str = ""
) -> tuple[str, Any, Any] | None:
    """Where two nested mappings differ first, within the sections of the old one."""
    for key in old if not prefix else sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            return _first_difference(before, after, f"{prefix}{key}.")
        return f"{prefix}{key}", before, after
    return None


def _refusal(paths: Paths, stage: str, name: str, problem: str, when: str = "again") -> UserError:
    where = f"{_show(paths, stage)}/{name}".rstrip("/")
    return UserError(f"{where} {problem}: run `python -m pipeline {stage} {paths.name}` {when}")


def _show(paths: Paths, stage: str) -> str:
    return f"runs/{paths.name}/{stage}"
