"""Whether a setting keeps the constraints of its space."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.settings.hyperparameters import Value
from pipeline.settings.space import Space


def within(space: Space, shape: tuple[int, int, int]) -> Callable[[dict[str, Value]], bool]:
    """The rule for images of a shape (C, H, W); what is counted is counted on empty models."""
    limits = space.search.constraints

    def rule(chosen: dict[str, Value]) -> bool:
        if not space.constrained:
            return True
        from pipeline.vae.cost import memory_bytes, model_size
        from pipeline.vae.setting import read_setting

        setting = read_setting(space.record(chosen))
        size = model_size(setting.architecture, shape)
        found = (
            (size.weights, limits.weights),
            (size.multiply_adds, limits.multiply_adds),
            (memory_bytes(setting, shape) / 1e6, limits.memory_mb),
        )
        return all(limit is None or value <= limit for value, limit in found)

    return rule
