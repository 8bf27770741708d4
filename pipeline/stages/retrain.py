"""Stage retrain: the search's best candidates race on fresh seeds, and the winner.

Reads prepare/ and search/best.json; writes retrain/: the winner's weights of its best, first and
last epoch (of its best seed) and of all its seeds, config.json to rebuild the model from,
candidates.csv, history.csv and winner.json; and what these follow from: runs.json, measured.npy.
"""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import UserError
from pipeline.files import read_json, sha256_of, write_json
from pipeline.paths import Paths
from pipeline.results.record import open_inputs, recorded
from pipeline.settings.machine import Machine
from pipeline.settings.space import Space
from pipeline.study.confirmation.candidates import (
    best_seed,
    candidates_table,
    history_table,
    measurements,
    model_record,
    winner_record,
)
from pipeline.study.confirmation.race_from_records import race_of, used
from pipeline.study.confirmation.winner import Candidate, choose
from pipeline.study.identity import Study, candidate_study
from pipeline.study.receipt import left_out, write_studies
from pipeline.study.storage.arithmetic import difference
from pipeline.study.storage.ledger import Ledger, storage_url
from pipeline.study.storage.rows import Trial
from pipeline.work.broken_models import undertrained
from pipeline.work.cards import granted
from pipeline.work.crew import Crew
from pipeline.work.trainings import Trainer
from pipeline.work.weights import fetch_weights, image_by_image, make_weights

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = ("model", "first_epoch", "last_epoch")  # what every run leaves behind


def run(
    space: Space, machine: Machine, paths: Paths, late: Callable[[], bool] | None = None
) -> None:
    """Trains the candidates and writes the winner. Raises UserError if every run failed.

    Raises OutOfTime, and writes nothing, once it is `late`: the stages after it need the time.
    """
    inputs = open_inputs("retrain", space, paths)
    manifest = read_json(paths.manifest)
    best = read_json(paths.best)
    entries = best["ranking"][: space.retrain.top]
    studies = [candidate_study(space, manifest["sha256"], e["parameters"]) for e in entries]
    parameters = {s.id: e["parameters"] for s, e in zip(studies, entries, strict=True)}
    with closing(Ledger(storage_url(machine, paths))) as ledger:
        for study in studies:
            ledger.open_study(study.id, space.name, study.kind, study.spec, left_out(space))
        Crew("retrain", space, machine, paths, ledger, studies, parameters, late).work()
        trials = [ledger.trials(study.id, range(study.budget)) for study in studies]
        race = race_of(space, [entry["parameters"] for entry in entries], trials)
        runs = used(space, race, trials)
        for index in race.left:
            _make_missing_weights(space, machine, paths, ledger, studies[index], runs[index])
    validation, candidates = _validation(machine, paths), list[Candidate]()
    for index, (entry, study) in enumerate(zip(entries, studies, strict=True)):
        kept = runs[index] if index in race.left else []  # who is out of the race has no weights
        weights = [paths.trial(study.id, run.number) / "model.safetensors" for run in kept]
        config = model_record(space, manifest, entry["parameters"])
        measured = image_by_image(weights, config, validation)
        out = race.dropped.get(index)
        candidates.append(Candidate(index, entry, study, runs[index], measured, out))
    verdict = choose(candidates, race.looks)
    winner = verdict.winner
    seed = best_seed(winner)
    with recorded("retrain", space, paths, inputs) as folder:
        _copy_weights(folder, winner, seed, paths)
        config = model_record(space, manifest, winner.entry["parameters"])
        write_json(folder / paths.config.name, config)
        write_json(folder / paths.winner.name, winner_record(best, candidates, verdict))
        candidates_table(candidates, verdict, list(space.searched)).to_csv(
            folder / paths.candidates_table.name, index=False
        )
        history_table(candidates).to_csv(folder / paths.history_table.name, index=False)
        write_studies(folder / paths.runs_record.name, [(c.study, c.runs) for c in candidates])
        np.save(folder / paths.measured.name, measurements(candidates))
    if why := undertrained(
        f"retrain {space.name}: the winner", winner.runs[seed].result, "retrain.epochs"
    ):
        print(why, file=sys.stderr)


def _validation(machine: Machine, paths: Paths) -> Tensor:
    """The validation images, on the device that this process measures on."""
    from pipeline.data.prepared import load_images
    from pipeline.vae.process import prepare_process, resolve_device

    device = resolve_device(granted(machine.device, until=machine.until))
    prepare_process(device)
    return load_images(paths.prepare, "validation", device)


def _make_missing_weights(
    space: Space,
    machine: Machine,
    paths: Paths,
    ledger: Ledger,
    study: Study,
    runs: list[Trial],
) -> None:
    """Gets the weights that other hosts have made. Those that are not to be had, too large for the
    storage or deleted or damaged by someone, are trained again, as far as they come out the same.

    Raises UserError for those of another host with other arithmetic.
    """
    from pipeline.vae.process import arithmetic

    trainer = None
    for run in runs:
        folder = paths.trial(study.id, run.number)
        if not run.result or _are_whole(folder, run.result):
            continue
        if blocked := next((f for f in folder.glob("*.safetensors") if f.is_dir()), None):
            raise UserError(
                f"retrain {space.name}: {blocked} must be a file, but it is a folder: remove it,"
                " then the same command goes on"
            )
        if fetch_weights(ledger, run, folder):
            continue
        trainer = trainer or Trainer(space, paths, machine.device)
        why = "are not as the run left them"
        if (host := run.meta.get("host")) not in (None, socket.gethostname()):
            # After the trainer has set up the process.
            if difference(run.meta.get("arithmetic", {}), arithmetic(trainer.device)):
                raise UserError(
                    f"retrain {space.name}: only host {host}, which computes otherwise, has"
                    f" {folder}/*.safetensors: give the same command on {host}, and copy that"
                    f" folder from there, or {paths.retrain}; if {host} is gone for good, another"
                    f" `retrain.epochs` in search_spaces/{space.name}.yaml has the candidates"
                    " trained anew"
                )
            why = f"are not in the storage, only on {host}"
        print(f"retrain {space.name}: {folder}/*.safetensors {why}: training it again",
              file=sys.stderr)  # fmt: skip
        make_weights(trainer, study, run, folder)


def _are_whole(folder: Path, result: dict[str, Any]) -> bool:
    """Whether a run's weights are as it left them; of an earlier version it says not how."""
    files = [folder / f"{name}.safetensors" for name in WEIGHTS]
    known = result.get("files", {})
    return all(f.is_file() and known.get(f.name) in (None, sha256_of(f)) for f in files)


def _copy_weights(folder: Path, winner: Candidate, seed: int, paths: Paths) -> None:
    for name in WEIGHTS:
        source = paths.trial(winner.study.id, seed) / f"{name}.safetensors"
        shutil.copyfile(source, folder / source.name)
    (folder / "seeds").mkdir()
    for run in winner.runs:
        source = paths.trial(winner.study.id, run.number) / "model.safetensors"
        shutil.copyfile(source, folder / "seeds" / f"seed-{run.number}.safetensors")
