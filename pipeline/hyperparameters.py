"""Every hyperparameter: its name, type, default and meaning; and the domain a search gives it."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

Family = Literal["mlp", "conv_stride", "conv_pool"]
Value = Any  # a JSON value: number, string, boolean, null or list


class Hyperparameters(BaseModel):
    """One complete setting of a trial. Field descriptions are printed by `check` and the README."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    family: Family = Field("mlp", description="architecture")
    latent_dim: int = Field(16, ge=1, le=4096, description="dimensions of the latent space")
    hidden: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] = Field(
        [512, 256], description="mlp: widths of the encoder; the decoder mirrors them"
    )
    filters: int = Field(32, ge=1, description="conv: channels of the first convolution")
    dense_units: int = Field(64, ge=1, description="conv: width of the layer before the latent")
    activation: Literal["relu", "leaky_relu", "silu"] = Field(
        "relu", description="mlp: nonlinearity (leaky_relu has slope 0.2)"
    )
    init: Literal["glorot", "torch"] = Field(
        "glorot", description="initial weights: Glorot uniform with zero bias, or torch's default"
    )
    optimizer: Literal["adam", "adamw", "adamax", "rmsprop", "sgd"] = Field(
        "adam", description="optimizer"
    )
    lr: float = Field(1e-3, gt=0, le=10, description="learning rate (peak, if scheduled)")
    batch_size: int = Field(128, ge=1, description="images a step")
    momentum: float = Field(0.9, ge=0, lt=1, description="sgd, rmsprop: momentum")
    weight_decay: float = Field(0.0, ge=0, description="weight decay (decoupled for adamw)")
    schedule: Literal["constant", "cosine", "one_cycle", "plateau"] = Field(
        "constant", description="learning-rate schedule over the whole budget of epochs"
    )
    lr_warmup: float = Field(
        0.0, ge=0, lt=1, description="constant, cosine: share of the steps with a rising rate"
    )
    plateau_factor: float = Field(0.5, gt=0, lt=1, description="plateau: factor of a reduction")
    plateau_patience: int = Field(3, ge=0, description="plateau: epochs without improvement")
    plateau_floor: float = Field(1e-6, ge=0, description="plateau: lowest learning rate")
    beta: float = Field(1.0, ge=0, description="weight of the KL in the training loss")
    kl_warmup: float = Field(
        0.0, ge=0, le=1, description="share of the steps over which the KL weight rises to beta"
    )
    kl_warmup_epochs: int = Field(
        0, ge=0, description="the same in epochs (give one of the two): epoch e has e/epochs"
    )
    patience: int | None = Field(
        None, ge=0, description="early stopping after so many epochs without improvement"
    )
    min_delta: float = Field(0.0, ge=0, description="early stopping: what counts as improvement")
    restore_best: bool = Field(
        True, description="keep the weights of the best epoch (else of the last)"
    )
    monitor: Literal["total", "recon"] = Field(
        "total", description="early stopping and best epoch: validation NELBO or its recon part"
    )

    @model_validator(mode="after")
    def _one_kl_warmup(self) -> Hyperparameters:
        if self.kl_warmup and self.kl_warmup_epochs:
            raise ValueError(
                "kl_warmup and kl_warmup_epochs exclude each other: give one of the two"
            )
        return self


# Which family reads a hyperparameter; those not named here are read by all.
ONLY_FOR_FAMILY: dict[str, tuple[str, ...]] = {
    "hidden": ("mlp",),
    "activation": ("mlp",),
    "filters": ("conv_stride", "conv_pool"),
    "dense_units": ("conv_stride", "conv_pool"),
}


class _Domain(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

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
    integer: bool = False  # set from the hyperparameter's type, never by the user

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError("`low` and `high` must be finite")
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
        return self

    def grid(self) -> list[Value]:
        """All values of a stepped or integer range. Raises ValueError for a continuous one."""
        step = self.step or (1 if self.integer and not self.log else None)
        if step is None:
            raise ValueError("a grid needs `choices` or a `step`")
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        values = [self.low + i * step for i in range(count)]
        return [int(v) for v in values] if self.integer else values


class Choices(_Domain):
    """A finite set of values of any type."""

    choices: list[Value] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> Choices:
        keys = [json.dumps(choice) for choice in self.choices]
        if len(set(keys)) < len(keys):
            raise ValueError(f"choices must differ from each other, but got {self.choices}")
        return self

    def grid(self) -> list[Value]:
        """All values."""
        return list(self.choices)


Domain = Range | Choices


def one_of(wanted: Value) -> list[Value]:
    """The admissible values of a `when` clause."""
    return wanted if isinstance(wanted, list) else [wanted]


def parse_parameters(raw: dict[str, Any]) -> tuple[dict[str, Value], dict[str, Domain]]:
    """Splits the `parameters` section into fixed values and searched domains.

    Raises ValueError, whose message starts with the hyperparameter's name.
    """
    fixed: dict[str, Value] = {}
    searched: dict[str, Domain] = {}
    for name, entry in raw.items():
        if name not in Hyperparameters.model_fields:
            valid = ", ".join(Hyperparameters.model_fields)
            raise ValueError(f"{name}: unknown hyperparameter; valid: {valid}")
        try:
            if isinstance(entry, dict):
                searched[name] = _domain(name, entry)
            else:
                fixed[name] = _checked(name, entry)
        except ValidationError as error:
            raise ValueError(f"{name}: {error.errors()[0]['msg']}, but got {entry!r}") from None
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    _check_conditions(fixed, searched)
    return fixed, _parents_first(_without_settled_conditions(searched))


def complete(values: dict[str, Value]) -> Hyperparameters:
    """The full setting: the given values over the defaults."""
    return Hyperparameters(**values)


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


def _domain(name: str, entry: dict[str, Any]) -> Domain:
    if "choices" in entry:
        domain = Choices(**_known(entry, {"choices", "when"}))
        return domain.model_copy(update={"choices": [_checked(name, v) for v in domain.choices]})
    if not {"low", "high"} <= entry.keys():
        raise ValueError(f"give a value, `low` and `high`, or `choices`, but got {entry}")
    low, high = _checked(name, entry["low"]), _checked(name, entry["high"])
    if isinstance(low, bool) or not isinstance(low, int | float):
        raise ValueError("a range needs a number; use `choices`")
    integer = isinstance(low, int)
    step = entry.get("step")
    if integer and isinstance(step, float) and not step.is_integer():
        raise ValueError(f"the step of an integer must be an integer, but got {step:g}")
    known = _known(entry, {"low", "high", "log", "step", "when"})
    return Range(**{**known, "low": low, "high": high, "integer": integer})


def _known(entry: dict[str, Any], valid: set[str]) -> dict[str, Any]:
    unknown = sorted(entry.keys() - valid)
    if unknown:
        raise ValueError(f"unknown key `{unknown[0]}`; valid: {', '.join(sorted(valid))}")
    return entry


def _checked(name: str, value: Value) -> Value:
    """The value as the hyperparameter's own type. Raises ValueError with rule and value."""
    field = Hyperparameters.model_fields[name]
    adapter = TypeAdapter(Annotated[field.annotation, field])  # type: ignore[valid-type]
    try:
        return adapter.validate_python(value, strict=not isinstance(value, int))
    except ValidationError as error:
        hint = ""
        if isinstance(value, str) and value[:1].isdigit() and "e" in value.lower():
            hint = " (YAML reads `1e-3` as text: write `1.0e-3`)"
        raise ValueError(f"{error.errors()[0]['msg']}, but got {value!r}{hint}") from None


def _check_conditions(fixed: dict[str, Value], searched: dict[str, Domain]) -> None:
    for name, domain in searched.items():
        for parent, wanted in domain.when.items():
            if parent not in Hyperparameters.model_fields:
                raise ValueError(f"{name}: `when` names the unknown hyperparameter `{parent}`")
            if parent == name:
                raise ValueError(f"{name}: `when` may not name {name} itself")
            if parent in searched and isinstance(searched[parent], Choices):
                possible = searched[parent].grid()
            elif parent in searched:
                raise ValueError(f"{name}: `when` needs a parent with choices, but {parent} is a"
                                 " range")  # fmt: skip
            else:
                possible = [fixed.get(parent, Hyperparameters.model_fields[parent].default)]
            for value in one_of(wanted):
                if value not in possible:
                    raise ValueError(
                        f"{name}: `when` waits for {parent} = {value!r}, which is never chosen;"
                        f" possible: {possible}"
                    )
    families = set(_possible("family", fixed, searched))
    for name in [*fixed, *searched]:
        readers = ONLY_FOR_FAMILY.get(name)
        if readers and not families & set(readers):
            raise ValueError(
                f"{name}: read only by family {' or '.join(readers)}, but the family is"
                f" {', '.join(sorted(families))}: remove it"
            )


def _possible(name: str, fixed: dict[str, Value], searched: dict[str, Domain]) -> list[Value]:
    if name in searched:
        return searched[name].grid()
    return [fixed.get(name, Hyperparameters.model_fields[name].default)]


def _without_settled_conditions(searched: dict[str, Domain]) -> dict[str, Domain]:
    """Drops conditions on parents that are not searched: the check has found that they hold."""
    return {
        name: domain.model_copy(
            update={"when": {k: v for k, v in domain.when.items() if k in searched}}
        )
        for name, domain in searched.items()
    }


def _parents_first(searched: dict[str, Domain]) -> dict[str, Domain]:
    """The domains in an order in which every condition is decided before it is asked for."""
    ordered: dict[str, Domain] = {}
    waiting = dict(searched)
    while waiting:
        ready = [
            name
            for name, domain in waiting.items()
            if all(parent in ordered or parent not in searched for parent in domain.when)
        ]
        if not ready:
            raise ValueError(f"{next(iter(waiting))}: the `when` clauses form a circle")
        ordered.update({name: waiting.pop(name) for name in ready})
    return ordered
