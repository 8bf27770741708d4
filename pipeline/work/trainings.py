"""The trainings of a sweep in one process: its device, its images, and when a model is broken."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.files import read_json, sha256_of
from pipeline.paths import Paths
from pipeline.results.keys import KEPT
from pipeline.results.record import open_stage
from pipeline.results.states import Kind
from pipeline.seeds import trial_seed
from pipeline.settings.hyperparameters import Value
from pipeline.settings.space import Space
from pipeline.study.identity import TRAINING_SEMANTICS, Study
from pipeline.study.search.clock import cost_of
from pipeline.study.search.numerics import of_training
from pipeline.work.broken_models import broken
from pipeline.work.cards import granted
from pipeline.work.causes import Cause, cause, has_room

if TYPE_CHECKING:
    from pipeline.vae.training import Training


class TrialFailed(Exception):
    """The trial's own doing, as opposed to the machine's (a full disk, a lost database)."""


class Trainer:
    """Makes trainings on one device, with the prepared images in its memory."""

    def __init__(
        self, space: Space, paths: Paths, device: str, slot: int = 0, *, alone: bool = False
    ):
        """`device` as in machine.yaml, `slot` the worker's number on this host; `alone` if no other
        of our processes is there: then a model that does not fit into an empty device is too large.

        Raises UserError for a device that is not there, and for images that are not as `prepare`
        left them.
        """
        from pipeline.data.prepared import load_images
        from pipeline.vae.process import prepare_process, resolve_device

        self.device = resolve_device(granted(device), slot)
        prepare_process(self.device)
        self._has_room = alone and has_room(self.device)
        self._space = space
        splits = ("train_images.npy", "validation_images.npy")
        open_stage(paths, "prepare", ("manifest.json", *splits))
        self._data = read_json(paths.manifest)["sha256"]
        self._train = load_images(paths.prepare, "train", self.device)
        self._validation = load_images(paths.prepare, "validation", self.device)
        self._gate: float | None = None  # the train-mean image's NELBO

    def new_training(
        self, study: Study, number: int, chosen: dict[str, Value], seed: int | None = None
    ) -> Training:
        """The training of a trial before its first epoch; `seed` is that of a kept one.

        Raises TrialFailed, and UserError for a study of other images than those here.
        """
        from pipeline.vae.setting import read_setting
        from pipeline.vae.training import Training

        space = self._space
        if study.spec["data"] != self._data:
            raise UserError(
                f"study {study.id} is of other images than runs/{space.name}/prepare holds by now:"
                f" give the command again, or run `python -m pipeline prepare {space.name}` with"
                " the `data` that it began with"
            )
        setting = read_setting(space.record(chosen))
        if seed is None:
            seed = trial_seed(space.search.seed, number, fresh=study.kind == Kind.CANDIDATE)
        with self.failures():
            return Training(self._train, self._validation, setting, seed, study.epochs, self.device)

    def cost(self, chosen: dict[str, Value]) -> int:
        """Of an epoch, on a search's virtual clock."""
        return cost_of(self._space, self.shape, len(self._train))(chosen)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image: (C, H, W)."""
        _, channels, height, width = self._train.shape
        return channels, height, width

    @contextmanager
    def failures(self) -> Iterator[None]:
        """What goes wrong by the model's own doing is a result: a reason and a traceback.

        What is the machine's passes through; see `pipeline.work.causes`.
        """
        from pipeline.vae.training import Diverged

        try:
            yield
        except Diverged as error:
            raise TrialFailed(str(error)) from None
        except (Exception, SystemExit) as error:  # which a model of somebody's own may raise
            whose = cause(error)
            if whose is Cause.MACHINE or (whose is Cause.MEMORY and not self._has_room):
                raise
            too_large = f"too large for {device_name(self.device)}, alone on it: out of memory"
            rule = too_large if whose is Cause.MEMORY else type(error).__name__
            raise TrialFailed(f"{rule}: {error}\n{traceback.format_exc()}") from None

    def judge(self, training: Training) -> dict[str, Any]:
        """What a training that has ended is worth. Raises TrialFailed for a broken model.

        The gate: a model that is not better than the train-mean image is broken, whatever its loss
        says, unless it was only trained too little (see `pipeline.work.broken_models`).
        """
        value = outcome(training)
        if len(self._space.search.objectives) == 2:
            return value  # a collapsed model is the honest end of the rate axis
        limit = self._mean_image_nelbo(training)
        if value["nelbo_nats"] < limit:
            return value
        curve = [record["nelbo_nats"] for record in training.records]
        if reason := broken(curve, value, limit, training.steps):
            raise TrialFailed(reason)
        return {**value, "mean_image_nelbo_nats": limit}

    def _mean_image_nelbo(self, training: Training) -> float:
        from pipeline.vae.measure import mean_image_nelbo
        from pipeline.vae.training import VALIDATION_SEED

        if self._gate is None:
            self._gate = mean_image_nelbo(
                training.vae, self._train, self._validation, VALIDATION_SEED
            )
        return self._gate


def outcome(training: Training) -> dict[str, Any]:
    """What a training is worth: the record of the epoch whose weights it keeps."""
    kept = training.records[training.kept_epoch - 1]
    return {
        **{name: kept[name] for name in KEPT},
        "epochs": len(training.records),
        "best_epoch": training.kept_epoch,
        "weights": sum(p.numel() for p in training.vae.parameters()),
    }


def save_run(folder: Path, training: Training) -> dict[str, str]:
    """Writes the weights of a candidate's run, of its best, first and last epoch.

    Returns the SHA-256 of each file by its name.
    """
    from pipeline.vae.checkpoint import save_weights

    weights = {
        "model.safetensors": training.kept_weights(),
        "first_epoch.safetensors": training.first_weights,
        "last_epoch.safetensors": training.model.state_dict(),
    }
    for name, tensors in weights.items():
        save_weights(folder / name, tensors)
    return {name: sha256_of(folder / name) for name in weights}


def name_of(study: str, number: int, parameters: dict[str, Value], meta: dict[str, Any]) -> str:
    """What a file of a trial's weights or training state carries, to be known as its own.

    Study and number imply the data, the seed and all settings; `meta` is that of the worker: with
    other arithmetic a training is another one. What proposals depend on is none of its business.
    """
    identity = {
        "study": study,
        "number": number,
        "parameters": parameters,
        "semantics": TRAINING_SEMANTICS,
        "arithmetic": of_training(meta) or None,
    }
    return json.dumps(identity, sort_keys=True)


def device_name(device: str) -> str:
    """The device as a person knows it."""
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device
