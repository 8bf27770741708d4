"""What a model and its training are told, field by field.

The fields are the hyperparameters of `pipeline.settings` and the space's section `model`, named
once more: pydantic checks there what people write, while training needs torch alone and rebuilds
models from records in which some of them are missing. A test holds both to the same names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pipeline.own_code import own_object
from pipeline.vae.families import FAMILIES, Family

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from pipeline.vae.likelihood import Likelihood

    T = TypeVar("T", bound=DataclassInstance)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What a model is rebuilt from, beside the shape of its images."""

    family: Family
    latent_dim: int
    init: str
    likelihood: str | type[Likelihood]
    sigma: float | Literal["optimal"] | None


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a training is told; the meaning of each is in `pipeline.settings.hyperparameters`."""

    architecture: Architecture
    centered: bool
    precision: str
    optimizer: str
    lr: float
    batch_size: int
    momentum: float
    weight_decay: float
    schedule: str
    lr_warmup: float
    plateau_factor: float
    plateau_patience: int
    plateau_floor: float
    max_grad_norm: float | None
    averaging: float | None
    beta: float
    kl_warmup: float
    kl_warmup_epochs: int
    patience: int | None
    min_delta: float
    restore_best: bool
    monitor: str


def read_architecture(record: Mapping[str, Any]) -> Architecture:
    """The architecture of a record of all hyperparameters, likelihood and sigma.

    Of the families' own only those are needed that its family reads; a family or likelihood in a
    file of one's own needs `sources`. Raises KeyError with the key that is missing or the family
    that is unknown, and UserError for a source that is damaged or fails.
    """
    name, sources = record["family"], record.get("sources", {})
    kind: type[Any] = own_object(name, sources) if ":" in name else FAMILIES[name]
    family: Family = _read(kind, record)
    likelihood = record["likelihood"]
    if ":" in likelihood:
        likelihood = own_object(likelihood, sources)
    return _read(Architecture, {**record, "family": family, "likelihood": likelihood})


def read_setting(record: Mapping[str, Any]) -> Setting:
    """The same with everything that only its training needs. Raises KeyError."""
    return _read(Setting, {**record, "architecture": read_architecture(record)})


def _read(kind: type[T], record: Mapping[str, Any]) -> T:
    return kind(**{field.name: record[field.name] for field in fields(kind)})
