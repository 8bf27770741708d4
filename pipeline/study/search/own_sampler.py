"""A sampler of one's own, FILE.py:CLASS of a space."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import UserError
from pipeline.own_code import Sources, own_object, where

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


def own_sampler(name: str, sources: Sources, seed: int) -> BaseSampler:
    """The sampler that a space names. Raises UserError."""
    from optuna.samplers import BaseSampler

    kind = own_object(name, sources)
    if not isinstance(kind, type) or not issubclass(kind, BaseSampler):
        raise UserError(f"{name}: must be a class of optuna.samplers.BaseSampler: derive it")
    try:
        made: BaseSampler = kind(seed=seed)  # type: ignore[call-arg]
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{name}: {kind.__name__}(seed=…) fails: {where(error, name)}") from error
    return made
