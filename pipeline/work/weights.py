"""The weights that candidates' runs left behind: fetched, made again, measured."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.files import atomic_path
from pipeline.study.confirmation.compare import Matrix
from pipeline.study.identity import Study
from pipeline.study.storage.ledger import Ledger
from pipeline.study.storage.rows import Trial
from pipeline.work.reproduce import difference, elsewhere
from pipeline.work.trainings import Trainer, save_run

if TYPE_CHECKING:
    from torch import Tensor


def make_weights(trainer: Trainer, study: Study, run: Trial, folder: Path) -> None:
    """Trains a candidate's run again, whose weights are gone or damaged, and writes them.

    Raises UserError if it comes out otherwise than it is recorded.
    """
    assert run.parameters is not None
    training = trainer.new_training(study, run.number, run.parameters)
    for _ in run.curve:
        training.run_epoch()
    if other := difference(run, training.records):
        raise UserError(
            f"the weights {folder}/*.safetensors are gone or damaged and cannot be made again"
            f" here: {other}{elsewhere(run, trainer.device)}: copy the folder"
            f" from host {run.meta.get('host')}"
        )
    save_run(folder, training)


def fetch_weights(ledger: Ledger, run: Trial, folder: Path) -> bool:
    """Writes the weights that the host of a candidate's run has left in the storage, if it has.

    Raises UserError if they are not what it left.
    """
    files = ledger.weights(run.study, run.number)
    for name, (content, sha256) in files.items():
        if hashlib.sha256(content).hexdigest() != sha256:
            raise UserError(
                f"the weights {name} of run {run.number} of {run.study} are damaged in the storage:"
                f" copy {folder} from host {run.meta.get('host')}"
            )
        with atomic_path(folder / name) as temporary:
            temporary.write_bytes(content)
    return bool(files)


def image_by_image(weights: list[Path], config: dict[str, Any], validation: Tensor) -> Matrix:
    """(seeds, images) NELBO in nats, with the noise that trials are measured with."""
    import numpy as np

    from pipeline.vae.checkpoint import rebuild
    from pipeline.vae.measure import elbo
    from pipeline.vae.training import VALIDATION_SEED

    rows = np.empty((len(weights), len(validation)))
    for row, path in zip(rows, weights, strict=True):
        vae = rebuild(path, config, str(validation.device))
        row[:] = elbo(vae, validation, VALIDATION_SEED).nelbo_nats.cpu().numpy()
    return rows
