"""Trains one trial again, alone, and compares it with its record; and writes a space back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.files import read_json
from pipeline.paths import Paths
from pipeline.results.record import prepared_sha256
from pipeline.settings.machine import Machine
from pipeline.settings.own_files import read_source
from pipeline.settings.space import Space, load_space
from pipeline.study.identity import Study, search_study
from pipeline.study.restore import file_text, restored, space_text, study_of
from pipeline.study.storage.ledger import Ledger
from pipeline.study.storage.outages import PATIENCE_SECONDS
from pipeline.study.storage.readonly import reading
from pipeline.work.reproduce import train_again
from pipeline.work.trainings import Trainer


def reproduce_trial(
    root: Path, machine: Machine, name: str, number: int, study: str | None = None
) -> str:
    """Says whether a trial's record is identical when it is trained again.

    The study is any of the sweep's in the ledger, rebuilt from its record there; by default the one
    that search_spaces/NAME.yaml stands for now. Nothing is written. Raises UserError if there is no
    such trial, or if its data are not prepared here.
    """
    paths = Paths(root, name)
    data = prepared_sha256(paths)
    wanted = study or search_study(load_space(root, name), data).id
    with reading(machine, paths, PATIENCE_SECONDS) as ledger:
        trials = ledger.trials(wanted)
        found = next((trial for trial in trials if trial.number == number and trial.curve), None)
        if found is None or found.parameters is None:
            raise UserError(
                f"reproduce {name}: study {wanted} has {len(trials)} trials, and {number} is none"
                " with a finished epoch: choose another number"
            )
        space, its_study = recorded_space(root, ledger, wanted)
    if space.name != name:
        raise UserError(f"reproduce {name}: study {wanted} is one of {space.name}: name that sweep")
    check_data(wanted, its_study.spec, data, name)
    _check_files(root, space, wanted)
    return train_again(Trainer(space, paths, machine.device), its_study, found)


def study_space(root: Path, machine: Machine, study: str, file: str | None = None) -> str:
    """search_spaces/NAME.yaml of a study of the ledger, or a Python file that it names.

    Raises UserError if there is none.
    """
    with reading(machine, Paths(root, "")) as ledger:
        name, spec, rest = _found(ledger, study)
        if file is not None:
            return file_text(study, spec, rest, file)
        return space_text(name, study, spec, _with_data(root, name, study, spec, rest))


def recorded_space(root: Path, ledger: Ledger, study: str) -> tuple[Space, Study]:
    """The space and the study as the ledger has them, whatever the file says by now."""
    name, spec, rest = _found(ledger, study)
    space = restored(name, study, spec, _with_data(root, name, study, spec, rest))
    return space, study_of(space, spec)


def _check_files(root: Path, space: Space, study: str) -> None:
    """Raises UserError unless the Python files of a study are those of the checkout.

    So that no code is run that came with a database.
    """
    for file in space.files("model"):
        source = space.sources[file]
        try:
            here = read_source(root, file).sha256
        except ValueError:
            here = "none"
        if here != source.sha256:
            raise UserError(
                f"reproduce {space.name}: study {study} is of {file} of SHA-256"
                f" {source.sha256[:12]}, but here is {here[:12]}: write it back (`python -m"
                f" pipeline space {study} --file {file} > {file}`), look at it, and try again"
            )


def check_data(study: str, spec: dict[str, Any], prepared: str, name: str) -> None:
    """Raises UserError unless the prepared data are those of the study."""
    if prepared != spec["data"]:
        raise UserError(
            f"reproduce {name}: study {study} is of data {spec['data'][:12]}, but"
            f" runs/{name}/prepare holds {prepared[:12]}: write its space back (`python -m pipeline"
            f" space {study}`), then run `python -m pipeline prepare {name}`"
        )


def _found(ledger: Ledger, study: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    found = ledger.find_study(study)
    if found is None:
        raise UserError(
            f"the ledger has no study {study}: `python -m pipeline status` lists them all"
        )
    return found


def _with_data(
    root: Path, name: str, study: str, spec: dict[str, Any], rest: dict[str, Any]
) -> dict[str, Any]:
    """What the identity leaves out; of a study recorded without it, the data section of now.

    Raises UserError unless this has the study's data.
    """
    manifest = Paths(root, name).manifest
    if "data" in rest:
        return rest
    if not manifest.exists() or read_json(manifest)["sha256"] != spec["data"]:
        raise UserError(
            f"study {study} was recorded without the `data` of its space by an earlier version:"
            f" give search_spaces/{name}.yaml the `data` that has the digest {spec['data'][:12]},"
            f" and run `python -m pipeline prepare {name}`"
        )
    return {**rest, "data": load_space(root, name).data.model_dump(exclude_unset=True)}
