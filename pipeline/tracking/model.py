"""A trained VAE as an MLflow model: safetensors, JSON and code, no pickle.

model = mlflow.pyfunc.load_model("models:/fashion@champion")
model.predict(images)                                   # reconstructions
model.predict(images, params={"mode": "nelbo"})         # nats per image
model.predict(None, params={"mode": "generate", "n": 16})
"""

from __future__ import annotations

import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import UserError
from pipeline.paths import atomic_folder
from pipeline.tracking.store import set_environment

if TYPE_CHECKING:
    from mlflow.models import Model
    from torch import Tensor

    from pipeline.vae.model import VAE

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
PACKAGE = Path(__file__).parents[1]
UNUSED = ("stages", "study", "figures", "launch", "__pycache__")  # by a model that is loaded
REQUIREMENTS = ("mlflow", "numpy", "pydantic", "pyyaml", "safetensors", "torch")
PARAMS: dict[str, tuple[str, Any]] = {  # name -> MLflow's type, default
    "mode": ("string", "reconstruct"),
    "seed": ("long", 0),
    "samples": ("long", 1),
    "n": ("long", 16),
}


def save_model(folder: Path, weights: Path, config: Path) -> None:
    """Writes the MLflow model of a safetensors file and the JSON record beside it.

    A folder that exists stays: its code is the code that the weights were trained with.
    """
    if folder.exists():
        return
    set_environment()
    from mlflow import pyfunc

    with tempfile.TemporaryDirectory() as scratch, atomic_folder(folder) as temporary:
        data, code = Path(scratch, "vae"), Path(scratch, PACKAGE.name)
        shutil.copytree(PACKAGE, code, ignore=shutil.ignore_patterns(*UNUSED))
        data.mkdir()
        shutil.copyfile(weights, data / WEIGHTS)
        shutil.copyfile(config, data / CONFIG)
        pyfunc.save_model(
            temporary,
            loader_module=__name__,
            data_path=str(data),
            code_paths=[str(code)],
            mlflow_model=_description(),
            pip_requirements=[f"{name}=={_public(version(name))}" for name in REQUIREMENTS],
        )


class VaeModel:
    """What `mlflow.pyfunc.load_model` returns, behind MLflow's wrapper."""

    def __init__(self, vae: VAE) -> None:
        self._vae = vae

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> np.ndarray:
        """What the model says about images, or new images.

        `model_input` is a DataFrame, array or list of n images, flat or (C, H, W), of 8-bit
        integers or of floats in [0, 1], which are rounded to 8 bits. `params` has `mode`:

        - `reconstruct`: the mean image decoded from z = μ, float32 (n, C, H, W) in [0, 1]
        - `encode`: μ, float32 (n, latent)
        - `nelbo`: nats per image with `samples` draws of z from `seed`, float64 (n,)
        - `generate`: mean images of `n` draws of z from the prior with `seed`, (n, C, H, W); the
          input is ignored

        Raises UserError for other modes and unusable images.
        """
        from pipeline.vae import measure

        given = {name: default for name, (_, default) in PARAMS.items()} | (params or {})
        mode, seed = given["mode"], given["seed"]
        if mode == "generate":
            return generate(self._vae, given["n"], seed).numpy()
        if mode not in ("reconstruct", "encode", "nelbo"):
            raise UserError(
                f"mode must be reconstruct, encode, nelbo or generate, but got {mode!r}: choose one"
            )
        images = as_images(model_input, self._vae.shape)
        if mode == "encode":
            return measure.posterior_means(self._vae, images, seed).numpy()
        if mode == "nelbo":
            return measure.elbo(self._vae, images, seed, given["samples"]).nelbo_nats.numpy()
        return reconstruct(self._vae, images, seed).numpy()


def as_images(model_input: Any, shape: tuple[int, int, int]) -> Tensor:
    """The input as uint8 (n, C, H, W). Raises UserError for another size or range."""
    import torch

    array = model_input.to_numpy() if hasattr(model_input, "to_numpy") else np.asarray(model_input)
    if array.ndim < 2 or not len(array) or array[0].size != np.prod(shape):
        size = "×".join(str(side) for side in shape)
        raise UserError(
            f"images must be (n, {np.prod(shape)}) or (n, {size}), but got {array.shape}: reshape"
        )
    if array.dtype.kind not in "biuf":
        raise UserError(f"pixels must be numbers, but got {array.dtype}: convert them")
    integer = array.dtype.kind != "f"
    if not (array.min() >= 0 and array.max() <= (255 if integer else 1)):  # also NaN
        raise UserError(
            "pixels must be integers from 0 to 255 or floats from 0 to 1, but got"
            f" {array.dtype} from {array.min()} to {array.max()}: divide floats by 255"
        )
    pixels = array if integer else np.rint(array * 255)
    return torch.from_numpy(pixels.astype(np.uint8).reshape(-1, *shape))


def reconstruct(vae: VAE, images: Tensor, seed: int) -> Tensor:
    """The mean image decoded from z = μ of uint8 images, (n, C, H, W)."""
    import torch

    from pipeline.vae.measure import seen

    with torch.inference_mode():
        means = [vae.likelihood.mean(vae.decode(vae.encode(x)[0])) for x in seen(vae, images, seed)]
    return torch.cat(means)


def generate(vae: VAE, n: int, seed: int) -> Tensor:
    """The mean images of n draws of z from N(0, I), (n, C, H, W). Raises UserError for n < 1."""
    import torch

    from pipeline.vae.measure import BATCH

    if n < 1:
        raise UserError(f"`n >= 1` must hold, but got {n}: ask for at least one image")
    z = torch.randn(n, vae.latent_dim, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        return torch.cat([vae.likelihood.mean(vae.decode(part)) for part in z.split(BATCH)])


def _load_pyfunc(data_path: str) -> VaeModel:
    """MLflow calls this by its name, with the folder that `save_model` filled."""
    from pipeline.vae.checkpoint import load_model

    folder = Path(data_path)
    return VaeModel(load_model(folder / WEIGHTS, folder / CONFIG))


def _description() -> Model:
    """The params alone: a schema of the input would admit one type and one shape."""
    from mlflow.models import Model, ModelSignature
    from mlflow.types.schema import ParamSchema, ParamSpec

    specs = [ParamSpec(name, dtype, default) for name, (dtype, default) in PARAMS.items()]
    return Model(signature=ModelSignature(params=ParamSchema(specs)))


def _public(version: str) -> str:
    """Without the local part (2.11.0+cu128), which no package index knows."""
    return version.partition("+")[0]
