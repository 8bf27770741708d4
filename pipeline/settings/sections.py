"""The sections of search_spaces/NAME.yaml but `search` and `parameters`: keys and defaults."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.settings.own_files import OwnName
from pipeline.settings.search_section import Count, Seed
from pipeline.settings.validation import Section

KNOWN_DATA = ("fashion-mnist", "mnist", "digits")
OWN_DATA = ("npz", "images", "pickle", "own")

Pixels = Annotated[int, Field(ge=1, le=4096)]


class Validation(Section):
    """How the validation images are split off the training images."""

    fraction: float = Field(0.1, gt=0, lt=1, description="share of the training images")
    seed: Seed = Field(42, description="seed of the split")


class TestSplit(Section):
    """How test images are split off a data set that has none of its own."""

    fraction: float = Field(0.2, gt=0, lt=1, description="share of all images")
    seed: Seed = Field(0, description="seed of the split")


class Data(Section):
    """Which images, and how they are split."""

    name: Literal["fashion-mnist", "mnist", "digits", "npz", "images", "pickle", "own"]
    path: str | None = Field(
        None, description="file or folder of your own npz, images or pickle, or for `reader`"
    )
    reader: OwnName | None = Field(
        None, description="own: what reads it, a function FILE.py:FUNCTION"
    )
    size: Pixels | Annotated[list[Pixels], Field(min_length=2, max_length=2)] | None = Field(
        None, description="images: every image is brought to this side, or [height, width]"
    )
    crop: Literal["centre", "none"] = Field(
        "centre",
        description="size: cut to the shape around the centre, or not, which squeezes the image",
    )
    colour: Literal["grey", "rgb"] | None = Field(
        None, description="images: converted to grey or rgb, 16 bits rounded to 8"
    )
    flip: bool = Field(False, description="training images are also used mirrored: twice as many")
    limit: int | None = Field(None, ge=2, description="only the first so many training images")
    hold_out: str | None = Field(
        None, description="a class left out of all splits, for evaluate to detect as an anomaly"
    )
    validation: Validation = Validation()
    test: TestSplit = TestSplit()

    @model_validator(mode="after")
    def _path_for_own_data(self) -> Data:
        if self.name in OWN_DATA and not self.path:
            raise ValueError(f"name: {self.name} needs `path`, the file or folder to read")
        if self.name in KNOWN_DATA and self.path:
            raise ValueError(f"name: {self.name} takes no `path` (a mirror is machine.yaml's)")
        if (self.name == "own") != (self.reader is not None):
            raise ValueError("`name: own` and `reader: FILE.py:FUNCTION` go together: give both")
        for key in ("size", "crop", "colour"):
            if self.name != "images" and getattr(self, key) not in (None, "centre"):
                raise ValueError(f"{key}: only `name: images` is read so: remove it")
        return self

    @property
    def shape(self) -> tuple[int, int] | None:
        """(height, width) of `size`."""
        if self.size is None:
            return None
        height, width = self.size if isinstance(self.size, list) else (self.size, self.size)
        return height, width


class Model(Section):
    """What a trial may not vary, because trials of one study must be comparable."""

    likelihood: (
        Literal[
            "bernoulli",
            "binarized",
            "gaussian",
            "laplace",
            "continuous_bernoulli",
            "discretized_logistic",
        ]
        | OwnName
    ) = "bernoulli"
    sigma: float | Literal["optimal"] | None = Field(
        None, description="gaussian: fixed standard deviation (default √½), or `optimal` (σ-VAE)"
    )

    @model_validator(mode="after")
    def _sigma_of_gaussian(self) -> Model:
        if self.sigma is not None and self.likelihood != "gaussian":
            raise ValueError(f"`sigma` belongs to gaussian, but likelihood is {self.likelihood}")
        if isinstance(self.sigma, float) and self.sigma <= 0:
            raise ValueError(f"`sigma > 0` must hold, but got {self.sigma:g}")
        return self


class Retrain(Section):
    """The best candidates on fresh seeds."""

    top: int = Field(2, ge=1, le=20, description="candidates")
    seeds: Count = Field(3, description="fresh seeds a candidate")
    epochs: Count = Field(20, description="epochs a run at most")
    rungs: list[Count] | None = Field(
        None,
        description="the epochs at which candidates that are behind for sure are dropped; [] drops"
        " none (default: a half and three quarters of epochs)",
    )

    @model_validator(mode="after")
    def _rungs_rise(self) -> Retrain:
        rungs = self.rungs or []
        rises = all(low < high for low, high in pairwise(rungs))
        if not rises or not all(2 <= rung < self.epochs for rung in rungs):
            raise ValueError(
                f"rungs must rise, from 2 and to less than `epochs` ({self.epochs}), but got"
                f" {rungs}"
            )
        return self

    @property
    def looks(self) -> list[int]:
        """The epochs at which candidates are compared before the last one, rising."""
        if self.rungs is not None:
            return self.rungs
        shares = {math.ceil(self.epochs / 2), math.ceil(self.epochs * 3 / 4)}
        return sorted(rung for rung in shares if 2 <= rung < self.epochs)


class Evaluate(Section):
    """The test set, once."""

    nelbo_samples: Count = Field(10, description="posterior samples an image for the NELBO")
    iw_samples: int = Field(
        100, ge=0, le=1_000_000, description="samples K of the importance-weighted bound"
    )
    probe: bool = Field(True, description="linear probe: logistic regression on posterior means")
    anomaly: list[Literal["fashion-mnist", "mnist"]] = Field(
        default=[],
        description="AUROC of the per-image NELBO against these sets",
    )
    metrics: Annotated[list[OwnName], Field(min_length=1)] | None = Field(
        None, description="figures of your own, each a function FILE.py:FUNCTION"
    )

    @model_validator(mode="after")
    def _metrics_differ(self) -> Evaluate:
        names = [name.rpartition(":")[2] for name in self.metrics or []]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"metrics: two are called {twice[0]}: rename one")
        return self


class Render(Section):
    """The figures and the report."""

    projections: list[Literal["pca", "tsne", "umap"]] = Field(
        default=["pca", "tsne"], description="maps of the latent space to the plane"
    )
    points: int = Field(2000, ge=50, description="test images in a latent scatter")
    images: int = Field(10, ge=1, le=64, description="originals and reconstructions")
    prior_samples: int = Field(20, ge=1, le=400, description="images decoded from the prior")
    interpolation_steps: int = Field(10, ge=2, le=50)
    traversal_steps: int = Field(11, ge=2, le=50)
    traversal_range: float = Field(3.0, gt=0)
    grid_side: int = Field(15, ge=2, le=50, description="side of the decoded latent grid")
    grid_range: float = Field(3.0, gt=0, description="the grid spans [-range, range]²")
    smoothing: Count = Field(7, description="window of the moving average of the curves")
    uncertainty_decodes: int = Field(
        64, ge=2, le=10_000, description="stochastic decodes a variance map"
    )
