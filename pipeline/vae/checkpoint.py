"""Weights and training states as safetensors files: nothing is ever unpickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.paths import atomic_path, read_json
from pipeline.vae.fit import Training
from pipeline.vae.model import VAE, build


def save_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Writes a state dict, whole or not at all."""
    _save(path, weights, {})


def load_model(weights: Path, config: Path, device: str = "cpu") -> VAE:
    """The model in evaluation mode, rebuilt from the record beside its weights.

    `config` is the JSON record with "shape" and every hyperparameter of the architecture.
    """
    return rebuild(weights, read_json(config), device)


def rebuild(weights: Path, record: dict[str, Any], device: str = "cpu") -> VAE:
    """The same from the record itself."""
    vae = build(tuple(record["shape"]), record, seed=0)
    vae.load_state_dict(_load(weights)[0])
    return vae.to(device).eval()


def save_training(path: Path, training: Training) -> None:
    """Writes everything that `load_training` needs to go on bit for bit.

    The best weights are left out while they are the current ones.
    """
    tensors = {f"model.{name}": tensor for name, tensor in training.vae.state_dict().items()}
    tensors |= {f"first.{name}": tensor for name, tensor in training.first_weights.items()}
    if training.best_epoch != len(training.records):
        tensors |= {f"best.{name}": tensor for name, tensor in training.best_weights.items()}
    optimizer = training.optimizer.state_dict()
    numbers = {}
    for index, state in optimizer["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{name}"] = value
            else:
                numbers[f"{index}.{name}"] = value
    progress = {
        "records": training.records,
        "early_stopping": training.early_stopping_state(),
        "plateau": training.plateau.state(),
        "optimizer": numbers,
    }
    _save(path, tensors, {"training": json.dumps(progress)})


def load_training(path: Path, training: Training) -> None:
    """Brings a new training to the state after the last saved epoch."""
    tensors, metadata = _load(path)
    progress = json.loads(metadata["training"])
    training.vae.load_state_dict(_under(tensors, "model."))
    training.first_weights = _under(tensors, "first.")
    training.records[:] = progress["records"]
    training.restore_early_stopping(progress["early_stopping"])
    training.plateau.restore(progress["plateau"])
    best = _under(tensors, "best.")
    if not best and training.best_epoch:
        best = _under(tensors, "model.")
    training.best_weights = best
    parameters = list(training.vae.parameters())
    state: dict[int, dict[str, Any]] = {}
    for key, value in [*_under(tensors, "optimizer.").items(), *progress["optimizer"].items()]:
        index, name = int(key.split(".", 1)[0]), key.split(".", 1)[1]
        if isinstance(value, Tensor) and value.shape == parameters[index].shape:
            # A fused optimizer walks parameter and state alike: their strides must agree.
            value = torch.empty_like(parameters[index]).copy_(value)
        state.setdefault(index, {})[name] = value
    groups = training.optimizer.state_dict()["param_groups"]
    training.optimizer.load_state_dict({"state": state, "param_groups": groups})


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
        save_file(plain, temporary, metadata)


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
