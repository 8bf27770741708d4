"""Audits a sweep without training it: what of its outputs does not follow from its records."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.audit import stores
from pipeline.audit.book import Book, parts_of, read_book
from pipeline.audit.digests import sha256
from pipeline.audit.outputs import Audit, audit_book
from pipeline.errors import UserError
from pipeline.paths import STAGES, Paths
from pipeline.seeds import derive_seed
from pipeline.settings.machine import Machine
from pipeline.settings.space import load_space
from pipeline.study.confirmation.candidates import model_record
from pipeline.study.identity import candidate_study, changes
from pipeline.study.storage.ledger import Ledger
from pipeline.study.storage.outages import PATIENCE_SECONDS
from pipeline.study.storage.readonly import has_ledger, reading
from pipeline.study.storage.rows import trials_of
from pipeline.work.budget_file import as_made

if TYPE_CHECKING:
    from torch import Tensor

LAST = {  # what a person looks for of a stage
    "retrain": "retrain/winner.json",
    "evaluate": "evaluate/metrics.json",
    "render": "render/report.html",
}


def verify(
    root: Path,
    machine: Machine,
    name: str,
    *,
    mlflow: bool = True,
    train: int = 0,
    measure: bool = False,
) -> Audit:
    """Audits files, ledger and MLflow as far as they are here.

    Trains so many trials again, and measures the winner's weights again if asked to. Writes
    nothing. Raises UserError if there is no search to audit.
    """
    paths = Paths(root, name)
    space = as_made(load_space(root, name), paths)
    book = read_book(paths, STAGES)
    audit = audit_book(space, book)
    for stage in (stage for stage in STAGES if stage not in book.records):
        audit.notes.append(f"{stage} has written nothing: {LAST[stage]} is not there")
    if has_ledger(machine, paths):
        _stores(audit, book, machine, mlflow=mlflow)
    if train:
        audit.look(f"{train} trials trained again", lambda: _trained(book, machine, train))
    if measure:
        audit.look("the weights, measured again", lambda: _measured(book, machine))
    return audit


def _stores(audit: Audit, book: Book, machine: Machine, *, mlflow: bool) -> None:
    with reading(machine, book.paths, PATIENCE_SECONDS) as ledger:
        audit.look("ledger", lambda: stores.findings(book, ledger))
        if book.space.search.observations:
            audit.look("kept trials", lambda: stores.kept_findings(book, ledger))
        if mlflow and machine.tracking != "none":
            audit.look("MLflow", lambda: _mlflow(audit, book, machine, ledger))


def _mlflow(audit: Audit, book: Book, machine: Machine, ledger: Ledger) -> Iterator[str]:
    from pipeline.sync.lag import sent_runs
    from pipeline.sync.mlflow_runs import Sweep
    from pipeline.tracking.cursor import Sent
    from pipeline.tracking.differences import Stated, differences
    from pipeline.tracking.records import Run
    from pipeline.tracking.store import MirrorUnavailable, be_patient, store_of

    be_patient()
    name, store = book.space.name, store_of(machine, book.paths)
    sent = sent_runs(store, name)
    sweep = Sweep(book.space, book.paths, ledger)
    runs = sweep.changes()

    def late(run: Run) -> Stated | None:
        known = sent.get(run.key, Sent(""))
        return None if run.mark is not None and known.mark == run.mark else known.stated

    try:
        behind, found = differences(store.uri, name, runs, late)
    except MirrorUnavailable as error:
        raise UserError(f"{error}, or leave it out with --no-mlflow") from None
    # Of what went on meanwhile, MLflow may have been read later than the record.
    marks = {run.key: run.mark for run in runs}
    for run in sweep.changes() if found else ():
        if run.parent is None or run.mark != marks.get(run.key):
            behind |= {run.key} if found.pop(run.key, []) else set()
    if behind:
        runs_ = f"{len(behind)} run{'s' * (len(behind) > 1)}"
        audit.notes.append(f"MLflow is behind: {runs_}: `python -m pipeline sync {name}`")
    yield from (line for lines in found.values() for line in lines)


def _trained(book: Book, machine: Machine, count: int) -> Iterator[str]:
    """Of the search's trials and the candidates' runs together."""
    from pipeline.work.reproduce import train_again
    from pipeline.work.trainings import Trainer

    space, data = book.space, book.manifest["sha256"]
    trials = [("search/study.json", book.study, trial) for trial in book.trials if trial.curve]
    for run in book.runs:
        study = candidate_study(space, data, run["spec"]["parameters"])
        trials += [("retrain/runs.json", study, trial) for trial in trials_of(parts_of(run))
                   if trial.curve]  # fmt: skip
    chosen = random.Random(derive_seed(book.study.id, "verify"))
    trainer = Trainer(space, book.paths, machine.device)
    for file, study, trial in chosen.sample(trials, min(count, len(trials))):
        said = train_again(trainer, study, trial)
        if "identical" not in said:
            yield f"{file}: {said}"


def _measured(book: Book, machine: Machine) -> Iterator[str]:
    from pipeline.data.prepared import load_images
    from pipeline.stages.evaluate import measured
    from pipeline.vae.process import prepare_process

    prepare_process()
    validation = load_images(book.paths.prepare, "validation")
    for index, run in enumerate(book.runs):
        for row, trial in enumerate(run["trials"]):
            yield from _row(book, index, row, trial, validation)
    if "evaluate" in book.records:
        for change in changes(book.metrics, measured(book.space, machine, book.paths)):
            yield f"evaluate/metrics.json: {change} by the weights"


def _row(
    book: Book, index: int, row: int, trial: dict[str, Any], validation: Tensor
) -> Iterator[str]:
    """The images of one run; of others than the winner's if their weights are here, beside the
    ledger."""
    from pipeline.work.weights import image_by_image

    assert book.measured is not None
    number, study = trial["number"], book.runs[index]["study"]
    if index == book.winner["candidate"]:
        weights = book.paths.retrain / "seeds" / f"seed-{number}.safetensors"
    else:
        weights = book.paths.trial(study, number) / "model.safetensors"
        known = (trial["result"] or {}).get("files", {}).get(weights.name)
        if known is None or sha256(weights) != known:
            return
    config = model_record(book.space, book.manifest, trial["parameters"])
    (again,) = image_by_image([weights], config, validation)
    if not np.allclose(again, book.measured[index, row], rtol=1e-5):
        yield (
            f"retrain/measured.npy: candidate {index}, seed {number}: is not what its weights give"
        )
