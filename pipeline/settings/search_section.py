"""The section `search` of search_spaces/NAME.yaml: every key, default and meaning."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.settings.observations import Observations
from pipeline.settings.own_files import OwnName
from pipeline.settings.validation import Section

PRUNERS = ("median", "percentile")  # what stops a trial for good; at rungs it only waits

Count = Annotated[int, Field(ge=1, le=1_000_000)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]

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

    sampler: Literal["tpe", "random", "grid", "gp", "cmaes"] | OwnName = "tpe"
    startup_trials: Count = Field(
        10, description="the centre and random draws, before the sampler learns"
    )
    random_share: float = Field(
        0.0, ge=0, le=1, description="tpe, gp, your own: share of the later trials drawn at random"
    )
    enqueue: list[dict[str, Any]] = Field(
        default=[], description="settings to try first; what one leaves out is at its centre"
    )
    observations: Observations | None = Field(
        None, description="a table of kept trials that the search begins with or is informed by"
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
    def is_blind(self) -> bool:
        """Whether no proposal and no pruning depends on what a trial has come to."""
        return self.sampler in ("random", "grid") and self.pruner == "none"

    @property
    def pauses(self) -> list[int]:
        """The epochs at which a trial pauses or ends, rising."""
        if self.pruner != "rungs":
            return [self.epochs]
        if self.rungs is not None:
            return self.rungs
        return sorted({math.ceil(self.epochs / self.reduction_factor**n) for n in range(4)})
