"""A trained VAE as an MLflow model: safetensors, JSON and code, no pickle.

model = mlflow.pyfunc.load_model("models:/fashion@champion")
model.predict(images)                                   # reconstructions
model.predict(images, params={"mode": "nelbo"})         # nats per image
model.predict(None, params={"mode": "generate", "n": 16})
"""

from __future__ import annotations

import json
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import UserError
from pipeline.files import atomic_folder, sha256_of, write_json
from pipeline.tracking.store import set_environment

if TYPE_CHECKING:
    from mlflow.models import Model
    from torch import Tensor

    from pipeline.vae.model import VAE

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
DIGESTS = "sha256.json"  # of a saved model: of each of its other files
PACKAGE = Path(__file__).parents[1]
# By a model that is loaded.
UNUSED = ("api", "audit", "commands", "figures", "stages", "study", "sync", "work", "__pycache__")
REQUIREMENTS = ("mlflow", "numpy", "pydantic", "pyyaml", "safetensors", "torch")
PARAMS: dict[str, tuple[str, Any]] = {  # name -> MLflow's type, default
    "mode": ("string", "reconstruct"),
    "seed": ("long", 0),
    "samples": ("long", 1),
    "n": ("long", 16),
}


def save_model(folder: Path, weights: Path, config: Path) -> None:
    """Writes the MLflow model of a safetensors file and the JSON record beside it.

    A folder that exists stays: its code is the code that the weights were trained with. One that is
    damaged, or is of other weights, is replaced: it goes to MLflow as the champion.
    """
    if folder.exists() and _is_whole(folder, weights, config):
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
            mlflow_model=_description(config),
            pip_requirements=[f"{name}=={_public(version(name))}" for name in REQUIREMENTS],
        )
        write_json(temporary / DIGESTS, _digests(temporary))


def _is_whole(folder: Path, weights: Path, config: Path) -> bool:
    """Whether a saved model is as `save_model` left it, and of these files."""
    data, digests = folder / "data" / "vae", folder / DIGESTS
    for own, name in ((weights, WEIGHTS), (config, CONFIG)):
        if not (data / name).is_file() or sha256_of(data / name) != sha256_of(own):
            return False
    if not digests.exists():
        return True  # of an earlier version
    try:
        return bool(json.loads(digests.read_text(encoding="utf-8")) == _digests(folder))
    except ValueError:
        return False


def _digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file of a model, but of what Python and this leave beside them."""
    files = (each for each in sorted(folder.rglob("*")) if each.is_file())
    names = {each.relative_to(folder).as_posix(): each for each in files}
    return {
        name: sha256_of(file)
        for name, file in names.items()
        if name != DIGESTS and "__pycache__" not in file.parts
    }


class VaeModel:
    """A trained VAE that takes images as people have them and answers with arrays.

    MLflow's wrapper calls `predict`; `pipeline.tracking.load` hands out the object itself. Images
    are what `as_images` takes. Raises UserError for unusable input.
    """

    def __init__(self, vae: VAE) -> None:
        self._vae = vae

    @property
    def module(self) -> VAE:
        """The torch module, with encode and decode of tensors; see `pipeline.vae.model`."""
        return self._vae

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of its images."""
        return self._vae.shape

    @property
    def latent_dim(self) -> int:
        return self._vae.latent_dim

    def encode(self, images: Any, seed: int = 0) -> np.ndarray:
        """μ, float32 (n, latent). `seed` is that of the noise that some likelihoods add."""
        from pipeline.vae import measure

        return measure.posterior_means(self._vae, as_images(images, self.shape), seed).numpy()

    def decode(self, z: Any) -> np.ndarray:
        """The mean images of latents (n, latent), float32 (n, C, H, W) in [0, 1]."""
        import torch

        latents = torch.as_tensor(np.asarray(z, dtype=np.float32))
        if latents.ndim != 2 or latents.shape[1] != self.latent_dim:
            raise UserError(
                f"latents must be (n, {self.latent_dim}), but got {tuple(latents.shape)}: reshape"
            )
        return self._images(latents)

    def reconstruct(self, images: Any, seed: int = 0) -> np.ndarray:
        """The mean image decoded from z = μ, float32 (n, C, H, W) in [0, 1]."""
        from pipeline.vae import measure

        mu = measure.posterior_means(self._vae, as_images(images, self.shape), seed)
        return self._images(mu)

    def sample(self, n: int = 16, seed: int = 0) -> np.ndarray:
        """The mean images of n draws of z from N(0, I), float32 (n, C, H, W) in [0, 1]."""
        import torch

        if n < 1:
            raise UserError(f"`n >= 1` must hold, but got {n}: ask for at least one image")
        generator = torch.Generator().manual_seed(seed)
        return self._images(torch.randn(n, self.latent_dim, generator=generator))

    def nelbo(self, images: Any, seed: int = 0, samples: int = 1) -> np.ndarray:
        """Nats per image, with so many draws of z each, float64 (n,)."""
        from pipeline.vae import measure

        images = as_images(images, self.shape)
        return measure.elbo(self._vae, images, seed, samples).nelbo_nats.numpy()

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> np.ndarray:
        """The same by name: `params` has `mode`.

        - `reconstruct`, `encode`, `nelbo` (with `samples`), each with `seed`
        - `generate`: `n` images from `seed`; the input is ignored
        """
        given = {name: default for name, (_, default) in PARAMS.items()} | (params or {})
        mode, seed = given["mode"], given["seed"]
        if mode == "generate":
            return self.sample(given["n"], seed)
        if mode == "encode":
            return self.encode(model_input, seed)
        if mode == "nelbo":
            return self.nelbo(model_input, seed, given["samples"])
        if mode == "reconstruct":
            return self.reconstruct(model_input, seed)
        raise UserError(
            f"mode must be reconstruct, encode, nelbo or generate, but got {mode!r}: choose one"
        )

    def _images(self, z: Tensor) -> np.ndarray:
        """The mean images of latents (n, latent), (n, C, H, W)."""
        import torch

        from pipeline.vae.measure import BATCH

        vae = self._vae
        with torch.inference_mode():
            means = [vae.likelihood.mean(vae.decode(part)) for part in z.split(BATCH)]
        return torch.cat(means).numpy()


def as_images(model_input: Any, shape: tuple[int, int, int]) -> Tensor:
    """The input as uint8 (n, C, H, W). Raises UserError for another shape, type or range.

    `model_input` is a DataFrame, array or list of n images:

    - (n, C, H, W), or (n, H, W, C) where that is another shape
    - of one channel also (n, H, W) and rows (n, H·W), line by line

    Pixels are integers from 0 to 255, or floats from 0 to 1, which are rounded to 8 bits.
    """
    import torch

    array = _in_order(_array(model_input), shape)
    if array.dtype.kind not in "iuf":
        raise UserError(f"pixels must be integers or floats, but got {array.dtype}: convert them")
    integer = array.dtype.kind != "f"
    if not (array.min() >= 0 and array.max() <= (255 if integer else 1)):  # also NaN
        raise UserError(
            "pixels must be integers from 0 to 255 or floats from 0 to 1, but got"
            f" {array.dtype} from {array.min()} to {array.max()}: divide floats by 255"
        )
    pixels = array if integer else np.rint(array * 255)
    return torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.uint8))


def _array(model_input: Any) -> np.ndarray:
    if hasattr(model_input, "to_numpy"):
        return np.asarray(model_input.to_numpy())
    try:
        return np.asarray(model_input)
    except ValueError:  # lists of unlike lengths
        raise UserError("images must have one size, but got several: send them apart") from None


def _in_order(array: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """The array as (n, C, H, W); never by a guess, which would scramble the channels."""
    channels, height, width = shape
    last = (height, width, channels)
    forms: list[tuple[int, ...]] = [shape, last]
    if channels == 1:
        forms += [(height, width), (height * width,)]
    if array.ndim < 2 or not len(array) or array.shape[1:] not in forms:
        known = " or ".join(f"(n, {', '.join(map(str, form))})" for form in forms)
        raise UserError(f"images must be {known}, but got {array.shape}: reshape or transpose them")
    if array.shape[1:] == last != shape:
        return np.moveaxis(array, -1, 1)
    return array.reshape(-1, *shape)


def _load_pyfunc(data_path: str) -> VaeModel:
    """MLflow calls this by its name, with the folder that `save_model` filled."""
    from pipeline.own_code import serve
    from pipeline.vae.checkpoint import load_model

    serve()
    folder = Path(data_path)
    return VaeModel(load_model(folder / WEIGHTS, folder / CONFIG))


def _description(config: Path) -> Model:
    """The params, and what the usual mode answers. A schema of the input would admit one type and
    one shape."""
    from mlflow.models import Model, ModelSignature
    from mlflow.types.schema import ParamSchema, ParamSpec, Schema, TensorSpec

    specs = [ParamSpec(name, dtype, default) for name, (dtype, default) in PARAMS.items()]
    shape = json.loads(config.read_text(encoding="utf-8"))["shape"]
    images = TensorSpec(np.dtype(np.float32), (-1, *shape), "images")
    signature = ModelSignature(outputs=Schema([images]), params=ParamSchema(specs))
    return Model(signature=signature)


def _public(version: str) -> str:
    """Without the local part (2.11.0+cu128), which no package index knows."""
    return version.partition("+")[0]
