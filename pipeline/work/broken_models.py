"""Models that are no better than the train-mean image: broken, or only trained too little.

A validation curve tells them apart. What diverged or collapsed is a failure; what still falls, or
has hardly begun, has an honest value: it is complete, and ranked by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

FEW_STEPS = 1000  # before, latents may not be in use yet, and a flat curve says nothing
FAR = 0.01  # of the mean image's NELBO, and at least a nat: farther up than noise
BEYOND = 10  # times the mean image's NELBO: farther than any model that has yet to learn


def broken(curve: Sequence[float], value: dict[str, Any], limit: float, steps: int) -> str | None:
    """Why a model that is worth `value` is broken, with the remedy; None: trained too little.

    `curve` is the validation NELBO of every epoch in nats, `limit` the train-mean image's, which
    `value["nelbo_nats"]` is not below; `steps` is how many the optimizer has taken.
    """
    worth = f"NELBO {value['nelbo_nats']:.2f} is not below the train-mean image's {limit:.2f} nats"
    if curve[-1] > BEYOND * max(abs(limit), 1.0):
        return f"diverged: {worth} by far: search lower values of lr"
    if curve[-1] - curve[0] > max(FAR * abs(limit), 1.0):
        return (
            f"diverged: {worth}, and rose from {curve[0]:.2f} to {curve[-1]:.2f}: search lower"
            " values of lr"
        )
    if len(curve) == 1 or falls(curve) or steps < FEW_STEPS:
        return None
    if value["kl_nats"] < 0.1:
        return (
            f"collapsed: {worth}, KL {value['kl_nats']:.2f}, and no longer falls: search lower"
            " values of beta or a KL warm-up"
        )
    return f"stuck: {worth}, and no longer falls: search other values of lr or a larger patience"


def falls(curve: Sequence[float]) -> bool:
    """Whether a curve still falls at its end: all of its last third is below the third before."""
    third = max(len(curve) // 3, 1)
    before = curve[-2 * third : -third]
    return bool(before) and max(curve[-third:]) < min(before)


def undertrained(name: str, value: dict[str, Any] | None, epochs: str) -> str | None:
    """What to say of a winner that is complete, but no better than the mean image."""
    if not value or "mean_image_nelbo_nats" not in value:
        return None
    return (
        f"{name} is trained too little: NELBO {value['nelbo_nats']:.2f} is not below the"
        f" train-mean image's {value['mean_image_nelbo_nats']:.2f} nats: raise {epochs} or lr"
    )
