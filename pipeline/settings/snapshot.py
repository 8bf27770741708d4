"""The settings that a sweep's stages work from: runs/NAME/settings/SECTION.json.

Each file holds one section of search_spaces/NAME.yaml with its defaults spelled out, so that
whoever compares it sees a changed default too. Under DVC the stage `settings@NAME` writes them and
the other stages read them: an edit of the YAML file while they run changes nothing for them. By
hand each command writes them first.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.errors import UserError
from pipeline.files import as_json, read_json, write_json
from pipeline.paths import Paths
from pipeline.settings.own_data import own_sha256
from pipeline.settings.own_files import SOURCES, kept
from pipeline.settings.space import Space, load_space, parse_space
from pipeline.settings.validation import read_yaml, show

SECTIONS = tuple(Space.valid_keys())
# What a stage reads of the settings: its dependencies in dvc.yaml.
USED = {
    "prepare": ("data",),
    "search": ("model", "parameters", "search"),
    "retrain": ("model", "parameters", "search", "retrain"),
    "evaluate": ("model", "evaluate"),
    "render": ("data", "model", "parameters", "search", "retrain", "render"),
}
OWN = "own_sha256"  # of data.json: the digest of the data at `path`
GIVEN = "given"  # of data.json: the keys that the file itself gives


def own_data(root: Path) -> None:
    """Writes runs/own_data.json: the digests of the own data, Python files and tables of kept
    trials of all sweeps of params.yaml.

    It tells DVC whether they have changed, which a path that a sweep names cannot.
    """
    digests: dict[str, str | None] = {}
    names = read_yaml(root / "params.yaml", "params.yaml").get("spaces") or []
    if not isinstance(names, list):
        raise UserError(f"params.yaml: spaces: must be a list of sweeps, but got {show(names)}")
    for name in map(str, names):
        try:
            space = load_space(root, name)
            digests |= {f"{name}: {file}": each.sha256 for file, each in space.sources.items()}
            if table := space.search.observations:
                digests[f"{name}: {table.file}"] = table.sha256
            digests[name] = own_sha256(space.data, Paths(root, name))
        except (UserError, OSError):  # which the sweep's own stages say
            digests[name] = None
    found = {name: sha256 for name, sha256 in digests.items() if sha256}
    write_json(root / "runs" / "own_data.json", found)


def take(paths: Paths) -> None:
    """Writes the snapshot. Raises UserError, also if the sweep's file changed meanwhile."""
    space = load_space(paths.root, paths.name)
    save(space, paths, "settings")
    if _differing(load_space(paths.root, paths.name), space):
        raise UserError(
            f"settings {paths.name}: search_spaces/{paths.name}.yaml was edited while it was read:"
            " give the same command again"
        )


def open_settings(stage: str, paths: Paths) -> Space:
    """The settings that a stage works from; changes nothing. Raises UserError."""
    if not under_dvc(stage, paths.name):
        return load_space(paths.root, paths.name)
    space = read(paths)
    _check_lock(space, paths)
    return space


def save(space: Space, paths: Paths, stage: str) -> None:
    """Writes what a stage works from, unless that is where it is from."""
    if stage in USED and under_dvc(stage, paths.name):
        return
    sections = {name: _section(space, name) for name in SECTIONS}
    if space.data.path is not None:
        sections["data"][OWN] = _own(space, sections["data"], paths, stage)
    for name, content in sections.items():
        file = paths.settings / f"{name}.json"
        if not file.exists() or file.read_bytes() != as_json(content).encode():
            write_json(file, content)


def under_dvc(stage: str, name: str) -> bool:
    """Whether DVC runs this stage of this sweep."""
    return os.environ.get("DVC_STAGE") == f"{stage}@{name}"


def read(paths: Paths) -> Space:
    """The sweep that the snapshot describes. Raises UserError."""
    again = f"run `dvc repro settings@{paths.name}`, or the stage by hand"
    missing = [name for name in SECTIONS if not (paths.settings / f"{name}.json").exists()]
    if missing:
        raise UserError(f"runs/{paths.name}/settings/{missing[0]}.json is missing: {again}")
    found = {name: read_json(paths.settings / f"{name}.json") for name in SECTIONS}
    try:
        space = _space(paths.name, found)
    except (ValidationError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"runs/{paths.name}/settings holds what is no valid sweep: {again}"
        ) from None
    if stale := [name for name in SECTIONS if _section(space, name) != _settings(found[name])]:
        raise UserError(
            f"runs/{paths.name}/settings/{stale[0]}.json is of another version of the code: {again}"
        )
    return space


def check_unchanged(stage: str, space: Space, paths: Paths) -> None:
    """Raises UserError if what a stage has worked from is no longer what the snapshot says."""
    for section in USED[stage]:
        file = paths.settings / f"{section}.json"
        if not file.exists() or _settings(read_json(file)) != _section(space, section):
            raise UserError(
                f"{stage} {paths.name}: runs/{paths.name}/settings/{section}.json changed while it"
                " ran, so that its outputs are of earlier settings: run it again"
            )
    if stage == "prepare" and read_json(paths.settings / "data.json").get(OWN) != own_sha256(
        space.data, paths
    ):
        raise UserError(
            f"prepare {paths.name}: data.path: the data changed while they were read: run it again"
        )


def _section(space: Space, name: str) -> dict[str, Any]:
    """A section with its defaults spelled out, as JSON holds it."""
    content = space.section(name)
    if name == "data":
        return {**content, GIVEN: sorted(space.data.model_fields_set)}
    if name == "parameters":
        named = space.fixed.keys() | space.searched.keys()
        settled = space.kind.defaults()
        content["defaults"] = {key: value for key, value in settled.items() if key not in named}
    return content


def _own(space: Space, data: dict[str, Any], paths: Paths, stage: str) -> str | None:
    """The digest of the own data. Later stages do without the data, and leave what was recorded."""
    before = paths.settings / "data.json"
    if stage not in ("settings", "prepare") and before.exists():
        recorded = read_json(before)
        if _settings(recorded) == data:
            digest: str | None = recorded.get(OWN)
            return digest
    return own_sha256(space.data, paths)


def _settings(content: Any) -> dict[str, Any]:
    """A section's file without the digest; nothing if it holds no section."""
    if not isinstance(content, dict):
        return {}
    return {key: value for key, value in content.items() if key != OWN}


def _space(name: str, found: dict[str, Any]) -> Space:
    sections, _ = kept({**found, "data": _settings(found["data"])})
    data, parameters = sections["data"], sections.pop("parameters")
    given = data.pop(GIVEN)
    raw = {
        "sources": {
            file: each for name in SECTIONS for file, each in found[name].get(SOURCES, {}).items()
        },
        "name": name,
        **sections,
        "data": {key: data[key] for key in given},  # whether a key was given has a meaning
        "fixed": parameters["fixed"],
        "searched": parameters["searched"],
    }
    return Space.model_validate(raw)


def _differing(one: Space, other: Space) -> bool:
    return any(_section(one, name) != _section(other, name) for name in SECTIONS)


def _check_lock(space: Space, paths: Paths) -> None:
    """Refuses a snapshot that is older than what DVC has recorded beside it.

    DVC reads a stage's parameters when the stage has ended: an edit in that very instant would be
    recorded as what the snapshot was made from.
    """
    file = f"search_spaces/{paths.name}.yaml"
    with contextlib.suppress(UserError):  # edited since, and wrong by now
        if not _differing(load_space(paths.root, paths.name), space):
            return
    recorded = _locked(paths.root / "dvc.lock", f"settings@{paths.name}", file)
    _, files = kept({name: space.section(name) for name in SECTIONS})
    recorded = _pinned(recorded, space)
    if recorded is not None and _differing(parse_space(paths.name, recorded, file, files), space):
        raise UserError(
            f"{file} was edited in the instant in which DVC recorded it: run `dvc repro -sf"
            f" settings@{paths.name}`, then `dvc repro`"
        )


def _pinned(recorded: dict[str, Any] | None, space: Space) -> dict[str, Any] | None:
    """What DVC has recorded of a file, with the digest of the table that it names."""
    search, table = (recorded or {}).get("search"), space.search.observations
    if recorded is None or table is None or not isinstance(search, dict):
        return recorded
    if search.get("observations") != table.file:
        return recorded
    return {**recorded, "search": {**search, "observations": table.model_dump()}}


def _locked(lock: Path, stage: str, file: str) -> dict[str, Any] | None:
    """The parameters that dvc.lock holds of a stage, if it does."""
    stages = read_yaml(lock, lock.name).get("stages", {}) if lock.exists() else {}
    recorded: dict[str, Any] | None = stages.get(stage, {}).get("params", {}).get(file)
    return recorded
