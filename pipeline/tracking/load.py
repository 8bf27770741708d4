"""A sweep's model in Python, from its outputs alone: without MLflow, without a tracking URI.

from pipeline.tracking.load import load_model

model = load_model("fashion")            # runs/fashion/retrain, in this checkout
model.encode(images)                     # and decode, reconstruct, sample, nelbo
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError
from pipeline.paths import Paths
from pipeline.results.record import is_made, open_stage

if TYPE_CHECKING:
    from pipeline.tracking.model import VaeModel


def load_model(name: str, root: Path | str = ".") -> VaeModel:
    """The winner of the sweep `name` in the checkout `root`, on the CPU.

    Raises UserError if nothing was retrained or a file is not as `retrain` left it.
    """
    from pipeline.tracking.model import VaeModel
    from pipeline.vae.checkpoint import load_model as load

    paths = Paths(Path(root), name)
    if not is_made(paths, "retrain"):
        raise UserError(
            f"{paths.retrain} is missing: run `python -m pipeline retrain {name}` (after `search`),"
            " or give the checkout as `root`"
        )
    open_stage(paths, "retrain", ("model.safetensors", "config.json"))
    return VaeModel(load(paths.retrain / "model.safetensors", paths.retrain / "config.json"))
