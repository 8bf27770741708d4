"""How a family declares a hyperparameter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Any


def hyperparameter(
    default: Any,
    *,
    meaning: str,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] | None = None,
) -> Any:
    """A field of a family's dataclass, with its default, its allowed values and its meaning.

    Numbers, and lists of them, have `low` and `high`, both included; text has `choices`. A search
    space is checked against the declaration without running it: what stands here is written out,
    not computed.
    """
    about = {"meaning": meaning, "low": low, "high": high, "choices": choices}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=about)
    return field(default=default, metadata=about)
