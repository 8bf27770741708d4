"""Weights and training states as safetensors files: nothing is ever unpickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pipeline.errors import UserError
from pipeline.files import atomic_path, damaged, read_json
from pipeline.vae.model import VAE, build
from pipeline.vae.setting import read_architecture
from pipeline.vae.training import Training


class Unreadable(Exception):
    """A file that is torn, damaged or something else."""


def save_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Writes a state dict, whole or not at all."""
    _save(path, weights, {})


def load_model(weights: Path, config: Path, device: str = "cpu") -> VAE:
    """The model in evaluation mode, rebuilt from the record beside its weights.

    `config` is the JSON record with "shape" and every hyperparameter of the architecture.
    """
    return rebuild(weights, read_json(config), device)


def rebuild(weights: Path, record: dict[str, Any], device: str) -> VAE:
    """The same from the record itself. Raises UserError for damaged weights or an old record."""
    try:
        vae = build(tuple(record["shape"]), read_architecture(record), seed=0)
    except KeyError as error:
        raise UserError(
            f"the record of {weights} is of an earlier version, without {error}: run retrain again"
        ) from None
    try:
        vae.load_state_dict(_load(weights)[0])
    except SafetensorError as error:
        raise damaged(weights, error) from None
    return vae.to(device).eval()


def save_training(path: Path, training: Training, of: str = "") -> None:
    """Writes everything that `load_training` needs to go on bit for bit; `of` names the training.

    The best weights are left out while they are the current ones.
    """
    tensors = {f"model.{name}": tensor for name, tensor in training.vae.state_dict().items()}
    if training.average:
        average = training.average.vae.state_dict()
        tensors |= {f"average.{name}": tensor for name, tensor in average.items()}
    tensors |= {f"first.{name}": tensor for name, tensor in training.first_weights.items()}
    if training.course.best_epoch != len(training.records) or training.taken:
        tensors |= {f"best.{name}": tensor for name, tensor in training.best_weights.items()}
    for name, values in training.optimizer.state.items():
        tensors |= {f"optimizer.{name}.{index}": value for index, value in enumerate(values)}
    tensors |= {f"epoch.{name}": value for name, value in training.state_within_epoch().items()}
    progress = {
        "records": training.records,
        "taken": training.taken,
        "spent": training.spent,
        "early_stopping": training.course.state(),
        "plateau": training.course.plateau.state(),
    }
    _save(path, tensors, {"training": json.dumps(progress), "of": of})


def load_training(path: Path, training: Training, of: str = "") -> None:
    """Brings a new training to the saved state.

    Raises Unreadable for a file that is damaged or of another training.
    """
    try:
        tensors, metadata = _load(path)
        if metadata.get("of", "") != of:
            raise Unreadable(f"{path}: it is of another training: {_differences(metadata, of)}")
        progress = json.loads(metadata["training"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise Unreadable(f"{path}: {error}") from None
    training.vae.load_state_dict(_under(tensors, "model."))
    if training.average:
        training.average.vae.load_state_dict(_under(tensors, "average."))
    training.first_weights = _under(tensors, "first.")
    training.records[:] = progress["records"]
    training.course.restore(len(training.records), progress["early_stopping"])
    training.course.plateau.restore(progress["plateau"])
    best = _under(tensors, "best.")
    if not best and training.course.best_epoch:
        best = _under(tensors, "average." if training.average else "model.")
    training.best_weights = best
    for name, values in training.optimizer.state.items():
        for index, value in enumerate(values):  # in place: strides stay those of the parameters
            value.copy_(tensors[f"optimizer.{name}.{index}"])
    training.spent = tuple(progress.get("spent", training.spent))
    training.restore_within_epoch(progress.get("taken", 0), _under(tensors, "epoch."))


def _differences(metadata: dict[str, str], of: str) -> str:
    """What of two names of trainings, which are JSON objects, is not the same."""
    there, here = (json.loads(name or "{}") for name in (metadata.get("of"), of))
    return ", ".join(sorted(k for k in there | here if there.get(k) != here.get(k)))


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _save(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    # safetensors refuses tensors that share memory or are not contiguous; channels-last weights
    # are stored as ordinary ones, which is what a reader expects.
    plain = {name: t.detach().contiguous().clone() for name, t in tensors.items()}
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(plain, metadata))  # safetensors itself hides the errno


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
