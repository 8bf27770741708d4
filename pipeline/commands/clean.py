"""`clean`: the files under runs/state that no present output needs, and their removal.

Outputs (runs/NAME) hold copies of all that they need. What a next command would go on from stays:
the studies of the present search spaces and outputs, with their checkpoints and weights.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from pipeline.commands.list import byte_count
from pipeline.commands.run_by_deadline import ASIDE, OWNER
from pipeline.commands.status import current_studies
from pipeline.errors import UserError
from pipeline.files import read_json
from pipeline.paths import Paths
from pipeline.results.record import checked
from pipeline.results.states import Kind, State
from pipeline.settings.machine import Machine
from pipeline.settings.space import load_space, space_names
from pipeline.study.storage.ledger import Ledger
from pipeline.study.storage.readonly import working
from pipeline.sync.outputs import winner_model
from pipeline.work.owners import is_gone, release_the_dead


@dataclass(frozen=True)
class Rubbish:
    """Files that would go, and why; `studies` are forks whose rows `--studies` deletes too."""

    places: dict[Path, str]
    studies: list[str]

    def text(self, root: Path, with_rows: bool) -> str:
        """What would be freed, a line for each place, and their sum."""
        lines = [
            f"  {byte_count([place]) / 1e6:9.1f} MB  {place.relative_to(root)}: {why}"
            for place, why in self.places.items()
        ]
        if with_rows:
            lines += [
                f"         rows  {study}: all its trials in the ledger" for study in self.studies
            ]
        total = byte_count(list(self.places)) / 1e6
        return "\n".join([*lines, f"  {total:9.1f} MB in all"])


def find_rubbish(root: Path, machine: Machine, name: str | None) -> Rubbish:
    """What can go, of one sweep or of all. Raises UserError while somebody holds a trial."""
    paths = Paths(root, "")
    with working(machine, paths) as ledger:
        refuse_while_held(ledger)
        names = [name] if name else space_names(root)
        forks = [study for each in names for study in _forks(root, ledger, each)]
        ended = [path for each in names for path in _finished_checkpoints(root, ledger, each)]
    places = {paths.study(study): "an earlier fork" for study in forks}
    left = [path for path in ended if not set(path.parents) & places.keys()]
    places |= dict.fromkeys(left, "of a finished trial")
    if name is None:
        swept = {path.parent.name for path in paths.runs.glob("*/retrain")} | set(names)
        kept = {winner_model(Paths(root, each)) for each in swept}
        models = paths.state / "models"
        found = sorted(models.iterdir()) if models.is_dir() else []
        places |= {model: "a superseded model" for model in found if model not in kept}
        places |= {
            owner.parent: "outputs that a killed command had put aside"
            for owner in sorted(paths.state.glob(f"{ASIDE}*/{OWNER}"))
            if is_gone(owner.read_text())
        }
        places[paths.downloads] = "downloads, fetched again when `prepare` needs them"
    there = {place: why for place, why in places.items() if place.exists()}
    return Rubbish(there, forks)


def remove(rubbish: Rubbish, root: Path, machine: Machine, *, with_rows: bool) -> None:
    """Deletes it. Raises UserError if somebody has taken a trial meanwhile."""
    with working(machine, Paths(root, "")) as ledger:
        refuse_while_held(ledger)
        if with_rows:
            for study in rubbish.studies:
                ledger.forget(study)
    for place in rubbish.places:
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)


def refuse_while_held(ledger: Ledger) -> None:
    """Raises UserError if a worker that lives, as far as we can tell, holds a trial."""
    release_the_dead(ledger)
    if held := ledger.owners():
        raise UserError(
            f"clean: no trial may be held, but {len(held)} workers hold some ({held[0]}): wait for"
            " them or stop them, then give the command again"
        )


def _forks(root: Path, ledger: Ledger, name: str) -> list[str]:
    """The studies of a sweep that neither its space nor its outputs mean. Raises UserError."""
    paths = Paths(root, name)
    space = load_space(root, name)
    if not paths.manifest.exists():
        return []  # then nobody can tell which of them is the present one
    kept = set(current_studies(space, paths))
    kept |= {
        read_json(checked(paths, file))["study"]
        for file in (paths.best, paths.winner)
        if file.exists()
    }
    known = [study for kind in Kind for study in ledger.studies(name, kind)]
    return [study for study in known if study not in kept]


def _finished_checkpoints(root: Path, ledger: Ledger, name: str) -> list[Path]:
    """Checkpoints that killed workers have left of trials which others finished."""
    paths, found = Paths(root, name), []
    for kind in Kind:
        for study in ledger.studies(name, kind):
            for number, (_, state, _) in ledger.marks(study).items():
                if state != State.RUNNING:
                    found += sorted(paths.trial(study, number).glob("checkpoint-*"))
    return found
