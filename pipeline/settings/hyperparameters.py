"""Every hyperparameter: its name, type, default and meaning; and the domain a search gives it."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.settings.validation import Section, show

Family = Literal["mlp", "conv_stride", "conv_pool", "residual"]
Value = Any  # a JSON value: number, string, boolean, null or list
MAX_STEPS = 1_000_000

Epochs = Annotated[int, Field(ge=0, le=1_000_000)]
Width = Annotated[int, Field(ge=1, le=65_536)]


# Which family reads a hyperparameter; those not named here are read by all.
ONLY_FOR_FAMILY: dict[str, tuple[str, ...]] = {
    "hidden": ("mlp",),
    "skip": ("mlp",),
    "activation": ("mlp",),
    "centered": ("mlp",),
    "filters": ("conv_stride", "conv_pool", "residual"),
    "dense_units": ("conv_stride", "conv_pool"),
}


class Hyperparameters(Section):
    """One complete setting of a trial. Field descriptions are printed by `check` and the README.

    A space with a family of one's own, or with residual, has a subclass with its hyperparameters.
    """

    readers: ClassVar[dict[str, tuple[str, ...]]] = ONLY_FOR_FAMILY

    family: Family = Field("mlp", description="architecture")
    latent_dim: int = Field(16, ge=1, le=4096, description="dimensions of the latent space")
    hidden: Annotated[list[Width], Field(min_length=1)] = Field(
        [512, 256], description="mlp: widths of the encoder; the decoder mirrors them"
    )
    skip: bool = Field(
        False, description="mlp: every layer of the decoder sees the latents, not the first alone"
    )
    filters: Width = Field(32, description="conv: channels of the first convolution")
    dense_units: Width = Field(64, description="conv: width of the layer before the latent")
    activation: Literal["relu", "leaky_relu", "silu"] = Field(
        "relu", description="mlp: nonlinearity (leaky_relu has slope 0.2)"
    )
    init: Literal["glorot", "torch"] = Field(
        "glorot", description="initial weights: Glorot uniform with zero bias, or torch's default"
    )
    centered: bool = Field(
        False,
        description="mlp: biases start so that the mean training image is taken off the input and"
        " predicted where nothing else is known",
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="arithmetic of training (bf16 is fast where the processor has it; weights,"
        " losses and measuring stay fp32)",
    )
    optimizer: Literal["adam", "adamw", "adamax", "rmsprop", "sgd"] = Field(
        "adam", description="optimizer"
    )
    lr: float = Field(1e-3, gt=0, le=10, description="learning rate (peak, if scheduled)")
    batch_size: int = Field(128, ge=1, le=1_000_000, description="images a step")
    momentum: float = Field(0.9, ge=0, lt=1, description="sgd, rmsprop: momentum")
    weight_decay: float = Field(0.0, ge=0, description="weight decay (decoupled for adamw)")
    schedule: Literal["constant", "cosine", "one_cycle", "plateau"] = Field(
        "constant", description="learning-rate schedule over the whole budget of epochs"
    )
    lr_warmup: float = Field(
        0.0, ge=0, lt=1, description="constant, cosine: share of the steps with a rising rate"
    )
    plateau_factor: float = Field(0.5, gt=0, lt=1, description="plateau: factor of a reduction")
    plateau_patience: int = Field(
        3, ge=1, le=1_000_000, description="plateau: epochs without improvement before a reduction"
    )
    plateau_floor: float = Field(1e-6, ge=0, description="plateau: lowest learning rate")
    max_grad_norm: float | None = Field(
        None, gt=0, description="the gradient is scaled down to this norm (nats); null: never"
    )
    averaging: float | None = Field(
        None,
        ge=0,
        description="the model is an average of the weights along the training, those after step t"
        " of T weighing (t/T) to this power (9: about the last tenth); null: the last weights",
    )
    beta: float = Field(1.0, ge=0, description="weight of the KL in the training loss")
    kl_warmup: float = Field(
        0.0, ge=0, le=1, description="share of the steps over which the KL weight rises to beta"
    )
    kl_warmup_epochs: Epochs = Field(
        0, description="the same in epochs (give one of the two): epoch e has e/epochs"
    )
    patience: Epochs | None = Field(
        None, description="early stopping after so many epochs without improvement"
    )
    min_delta: float = Field(
        0.0, ge=0, description="nats that count as improvement: early stopping, plateau"
    )
    restore_best: bool = Field(
        True, description="keep the weights of the best epoch (else of the last)"
    )
    monitor: Literal["total", "recon"] = Field(
        "total", description="early stopping and best epoch: validation NELBO or its recon part"
    )

    @classmethod
    def defaults(cls) -> dict[str, Value]:
        """Every hyperparameter as it is where nothing is said of it."""
        return {name: field.get_default() for name, field in cls.model_fields.items()}

    @classmethod
    def of_the_model(cls) -> list[str]:
        """Those that a model is built by."""
        ours = (name for name in cls.readers if name != "centered")  # of the training's start
        return ["family", "latent_dim", *ours]

    @model_validator(mode="after")
    def _one_kl_warmup(self) -> Hyperparameters:
        if self.kl_warmup and self.kl_warmup_epochs:
            raise ValueError(
                "kl_warmup and kl_warmup_epochs exclude each other: give one of the two"
            )
        return self


class _Domain(Section):
    when: dict[str, Value] = Field(
        default_factory=dict,
        description="exists only where these other hyperparameters have this value (or one of a"
        " list of values)",
    )

    def active(self, chosen: dict[str, Value]) -> bool:
        """Whether the hyperparameter exists, given the values chosen before it."""
        return all(chosen.get(name) in one_of(wanted) for name, wanted in self.when.items())


class Range(_Domain):
    """A numeric range, both ends included."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    centre: float | None = Field(None, description="the guess that the search begins with")
    integer: bool = False  # set from the hyperparameter's type, never by the user

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low < self.high:
            raise ValueError(
                f"`low < high` must hold, but got (low={self.low:g}, high={self.high:g}):"
                " for a single value write the value alone"
            )
        if self.log and self.low <= 0:
            raise ValueError(f"a log range must stay above 0, but got low={self.low:g}")
        if self.log and self.step is not None:
            raise ValueError("`log` and `step` exclude each other: drop one")
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise ValueError(f"`0 < step <= high - low` must hold, but got step={self.step:g}")
        if self.step is not None:
            self._check_step(self.step)
        if self.centre is not None and not self.holds(self.centre):
            steps = f", step={self.step:g}" if self.step else ""
            raise ValueError(
                f"`centre` must be a value of the range, but got {self.centre:g} (low={self.low:g},"
                f" high={self.high:g}{steps})"
            )
        return self

    def holds(self, value: Value) -> bool:
        """Whether a value belongs to the range."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if not self.low <= value <= self.high or (self.integer and value != int(value)):
            return False
        if self.step is None:
            return True
        low, size = Decimal(str(self.low)), Decimal(str(self.step))
        return (Decimal(str(float(value))) - low) % size == 0

    def _check_step(self, step: float) -> None:
        if (self.high - self.low) / step > MAX_STEPS:
            raise ValueError(f"a range has at most {MAX_STEPS} steps, but got step={step:g}")
        low, high, size = (Decimal(str(number)) for number in (self.low, self.high, step))
        if rest := (high - low) % size:
            raise ValueError(
                f"`high - low` must be a multiple of `step`, but got (low={low}, high={high},"
                f" step={size}): set high to {high - rest}"
            )

    def grid(self) -> list[Value]:
        """All values of a stepped or integer range. Raises ValueError for a continuous one."""
        step = self._spacing()
        if step is None:
            raise ValueError("a grid needs `choices` or a `step`")
        return [self._stepped(i, step) for i in range(self._steps(step) + 1)]

    def middle(self) -> Value:
        """The centre that was given, or the middle on the scale of the range; of two middle steps
        the lower one."""
        if self.centre is not None:
            return int(self.centre) if self.integer else self.centre
        if self.log:
            middle = math.sqrt(self.low * self.high)
            return round(middle) if self.integer else middle
        if step := self._spacing():
            return self._stepped(self._steps(step) // 2, step)
        return (self.low + self.high) / 2

    def _spacing(self) -> float | None:
        """Between neighbouring values; None for a continuous or logarithmic range."""
        return self.step or (1 if self.integer and not self.log else None)

    def _steps(self, step: float) -> int:
        return round((self.high - self.low) / step)

    def _stepped(self, index: int, step: float) -> Value:
        value = min(self.low + index * step, self.high)
        return int(value) if self.integer else value


class Choices(_Domain):
    """A finite set of values of any type."""

    choices: list[Value] = Field(min_length=1)
    centre: Value = Field(None, description="the guess that the search begins with")

    @model_validator(mode="after")
    def _distinct(self) -> Choices:
        keys = [json.dumps(choice) for choice in self.choices]
        if len(set(keys)) < len(keys):
            raise ValueError(f"choices must differ from each other, but got {show(self.choices)}")
        if self.centre is not None and not self.holds(self.centre):
            raise ValueError(f"`centre` must be one of the choices, but got {show(self.centre)}")
        return self

    def holds(self, value: Value) -> bool:
        """Whether a value is one of the choices."""
        return json.dumps(value) in [json.dumps(choice) for choice in self.choices]

    def grid(self) -> list[Value]:
        """All values."""
        return list(self.choices)

    def middle(self) -> Value:
        """The centre that was given, or the first choice, where the usual one stands."""
        return self.choices[0] if self.centre is None else self.centre


Domain = Range | Choices


def one_of(wanted: Value) -> list[Value]:
    """The admissible values of a `when` clause."""
    return wanted if isinstance(wanted, list) else [wanted]


def grid(searched: dict[str, Domain]) -> Iterator[dict[str, Value]]:
    """All cells of the full grid, conditional parameters only where they exist, no cell twice."""
    seen = set()
    for cell in itertools.product(*(domain.grid() for domain in searched.values())):
        chosen: dict[str, Value] = {}
        for (name, domain), value in zip(searched.items(), cell, strict=True):
            if domain.active(chosen):
                chosen[name] = value
        key = json.dumps(chosen, sort_keys=True)
        if key not in seen:
            seen.add(key)
            yield chosen
