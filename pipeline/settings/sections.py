"""The sections of search_spaces/NAME.yaml but for `parameters`: every key, default and meaning."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.settings.validation import Section

KNOWN_DATA = ("fashion-mnist", "mnist", "digits")
OWN_DATA = ("npz", "images", "pickle")
PRUNERS = ("median", "percentile")  # what stops a trial for good; at rungs it only waits

Count = Annotated[int, Field(ge=1, le=1_000_000)]
Pixels = Annotated[int, Field(ge=1, le=4096)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


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

    name: Literal["fashion-mnist", "mnist", "digits", "npz", "images", "pickle"]
    path: str | None = Field(None, description="file or folder of your own npz, images or pickle")
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

    likelihood: Literal[
        "bernoulli",
        "binarized",
        "gaussian",
        "laplace",
        "continuous_bernoulli",
        "discretized_logistic",
    ] = "bernoulli"
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


Objective = Literal["nelbo_nats", "kl_nats", "recon_nats"]


class Constraints(Section):
    """Bounds of a model: a setting that breaks one is not proposed."""

    weights: Count | None = Field(None, description="weights of a model at most")
    multiply_adds: Annotated[int, Field(ge=1, le=10**15)] | None = Field(
        None, description="multiply-adds of a forward pass for an image at most"
    )
    memory_mb: Annotated[int, Field(ge=1, le=10**9)] | None = Field(
        None, description="megabytes of a training at most: weights, gradients, optimizer, batch"
    )


class Stop(Section):
    """When a search ends before its budget: more trials would not pay."""

    gain: float = Field(
        0.2, gt=0, description="nats that count as a gain: less is the noise between seeds"
    )
    patience: Count = Field(description="trials without a gain after which no new one begins")


class Search(Section):
    """The study: how trials are proposed, pruned and compared."""

    sampler: Literal["tpe", "random", "grid", "gp", "cmaes"] = "tpe"
    startup_trials: Count = Field(
        10, description="the centre and random draws, before the sampler learns"
    )
    random_share: float = Field(
        0.0, ge=0, le=1, description="tpe, gp: share of the later trials that are drawn at random"
    )
    enqueue: list[dict[str, Any]] = Field(
        default=[], description="settings to try first; what one leaves out is at its centre"
    )
    pruner: Literal["rungs", "none", "median", "percentile"] = Field(
        "rungs", description="which trials end before their last epoch"
    )
    rungs: Annotated[list[Count], Field(min_length=1)] | None = Field(
        None,
        description="rungs: the epochs at which trials pause and the best go on (default: epochs,"
        " divided by the factor up to three times)",
    )
    reduction_factor: int = Field(3, ge=2, description="rungs: the best one in so many goes on")
    percentile: float = Field(25.0, gt=0, lt=100, description="percentile: the share that goes on")
    min_epochs: Count = Field(1, description="median, percentile: no pruning before so many epochs")
    min_trials: Count = Field(
        4, description="median, percentile: no pruning before so many comparable trials"
    )
    trials: Count = Field(20, description="budget; raising it extends the study")
    total_epochs: Count | None = Field(
        None, description="budget in epochs of all trials; raising it extends the study"
    )
    epochs: Count = Field(5, description="epochs a trial at most")
    parallelism: Count = Field(
        4, description="virtual workers: what a proposal has seen is as if so many had worked"
    )
    constraints: Constraints = Field(
        Constraints(), description="bounds that a model keeps: `weights`, `multiply_adds`"
    )
    stop: Stop | None = Field(None, description="ends the search when more trials do not pay")
    seed: Seed = Field(0, description="seed of proposals, weights, shuffles and noise")
    objectives: Annotated[list[Objective], Field(min_length=1, max_length=2)] = Field(
        default=["nelbo_nats"],
        description="[nelbo_nats], or [kl_nats, recon_nats] for a rate-distortion sweep",
    )
    fallback: dict[str, Any] | None = Field(
        None, description="hyperparameters to retrain when no trial succeeds (default: an error)"
    )

    @model_validator(mode="after")
    def _a_trial_fits(self) -> Search:
        if self.total_epochs is not None and self.total_epochs < self.epochs:
            raise ValueError(
                f"`total_epochs >= epochs` must hold, but got {self.total_epochs} < {self.epochs}:"
                " not one trial would fit"
            )
        return self

    @model_validator(mode="after")
    def _objectives_fit(self) -> Search:
        if self.objectives not in (["nelbo_nats"], ["kl_nats", "recon_nats"]):
            raise ValueError(
                "objectives must be [nelbo_nats] or [kl_nats, recon_nats], but got"
                f" {self.objectives}"
            )
        if len(self.objectives) == 2 and self.pruner != "none":
            raise ValueError("two objectives cannot be pruned: set `pruner: none`")
        if self.sampler in ("cmaes", "gp") and self.pruner == "rungs":
            raise ValueError(
                f"{self.sampler} learns from whole trials alone: set `pruner: none` or `median`"
            )
        return self

    @model_validator(mode="after")
    def _rungs_rise(self) -> Search:
        if self.rungs is None:
            return self
        if self.pruner != "rungs":
            raise ValueError(f"`rungs` belong to `pruner: rungs`, but got pruner {self.pruner}")
        if any(low >= high for low, high in pairwise(self.rungs)) or self.rungs[-1] > self.epochs:
            raise ValueError(
                f"rungs must rise and end at `epochs` ({self.epochs}) or before, but got"
                f" {self.rungs}"
            )
        return self

    @property
    def pauses(self) -> list[int]:
        """The epochs at which a trial pauses or ends, rising."""
        if self.pruner != "rungs":
            return [self.epochs]
        if self.rungs is not None:
            return self.rungs
        return sorted({math.ceil(self.epochs / self.reduction_factor**n) for n in range(4)})


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
