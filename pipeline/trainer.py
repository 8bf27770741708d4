"""The trainings of a sweep in one process: its device, its images, and when a model is broken."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import Space
from pipeline.errors import UserError
from pipeline.hyperparameters import Value
from pipeline.paths import Paths
from pipeline.seeds import derive_seed
from pipeline.study.identity import Study

if TYPE_CHECKING:
    from pipeline.vae.fit import Training


class TrialFailed(Exception):
    """The trial's own doing, as opposed to the machine's (a full disk, a lost database)."""


class Trainer:
    """Makes trainings on one device, with the prepared images in its memory."""

    def __init__(self, space: Space, paths: Paths, device: str, slot: int = 0):
        """`device` as in machine.yaml, `slot` the worker's number on this host.

        Raises UserError for a device that is not there.
        """

        from pipeline.vae.data import load_images
        from pipeline.vae.process import prepare_process

        prepare_process()
        self.device = resolve_device(device, slot)
        self._space = space
        self._train = load_images(paths.prepare, "train", self.device)
        self._validation = load_images(paths.prepare, "validation", self.device)
        self._gate: float | None = None  # the train-mean image's NELBO

    def new_training(self, study: Study, number: int, chosen: dict[str, Value]) -> Training:
        """The training of a trial before its first epoch. Raises TrialFailed."""
        from pipeline.vae.fit import Training

        space = self._space
        config = {**space.hyperparameters(chosen).model_dump(), **space.model.model_dump()}
        label = "seed" if study.kind == "candidate" else "trial"
        seed = derive_seed(space.search.seed, label, number)
        with failures():
            return Training(self._train, self._validation, config, seed, study.epochs, self.device)

    def broken(self, training: Training) -> str | None:
        """The gate: worse than the train-mean image is broken, whatever its loss says."""
        value, limit = outcome(training), self._mean_image_nelbo(training)
        # With two objectives a collapsed model is the honest end of the rate axis.
        if value["nelbo_nats"] < limit or len(self._space.search.objectives) == 2:
            return None
        return (
            f"broken model: NELBO {value['nelbo_nats']:.2f} is not below the train-mean image's"
            f" {limit:.2f} nats (diverged or collapsed; kl {value['kl_nats']:.2f})"
        )

    def _mean_image_nelbo(self, training: Training) -> float:
        from pipeline.vae.fit import VALIDATION_SEED
        from pipeline.vae.measure import mean_image_nelbo

        if self._gate is None:
            self._gate = mean_image_nelbo(
                training.vae, self._train, self._validation, VALIDATION_SEED
            )
        return self._gate


@contextmanager
def failures() -> Iterator[None]:
    """What goes wrong in the training itself is a result: a reason and a traceback."""
    from pipeline.vae.fit import Diverged

    try:
        yield
    except Diverged as error:
        raise TrialFailed(str(error)) from None
    except Exception as error:
        name = type(error).__name__
        rule = "out of memory" if name in ("MemoryError", "OutOfMemoryError") else name
        raise TrialFailed(f"{rule}: {error}\n{traceback.format_exc()}") from None


def outcome(training: Training) -> dict[str, Any]:
    """What a training is worth: the record of the epoch whose weights it keeps."""
    kept = training.records[training.kept_epoch - 1]
    names = ("nelbo_nats", "recon_nats", "kl_nats", "active_units")
    return {
        **{name: kept[name] for name in names},
        "epochs": len(training.records),
        "best_epoch": training.kept_epoch,
        "weights": sum(p.numel() for p in training.vae.parameters()),
    }


def save_run(folder: Path, training: Training) -> None:
    """Writes the weights of a candidate's run: of its best, first and last epoch."""
    from pipeline.vae.checkpoint import save_weights

    save_weights(folder / "model.safetensors", training.kept_weights())
    save_weights(folder / "first_epoch.safetensors", training.first_weights)
    save_weights(folder / "last_epoch.safetensors", training.model.state_dict())


def resolve_device(name: str, slot: int = 0) -> str:
    """`auto` as the best device of this machine: workers take its GPUs in turn, by their slot.

    Raises UserError for a device that is not there.
    """
    import torch

    if name == "auto":
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return f"cuda:{slot % gpus}" if gpus else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch without CUDA
        reason = str(error).splitlines()[0]
        raise UserError(
            f"device {name} cannot be used: {reason}: correct `device` in machine.yaml"
        ) from None
    return name


def device_name(device: str) -> str:
    """The device as a person knows it."""
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"
