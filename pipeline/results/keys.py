"""The keys of what is recorded of trainings: stored, and names of columns, they never change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PARTS = ("nelbo_nats", "recon_nats", "kl_nats")  # the first is the sum of the others
TRAIN = "train_"  # prefix of what is of the training images; else it is of the validation images
LOSSES = (*PARTS, *(f"{TRAIN}{name}" for name in PARTS))
PER_DIMENSION = "kl_per_dim"

# Of an epoch: the numbers that are a table's columns, and what says nothing of the result.
CURVE = (*LOSSES, "lr", "active_units", "mu_std", "log_var_mean")
TIMES = ("seconds", "core_seconds", "ended_ms")
EPOCH = ("epoch", *CURVE, PER_DIMENSION, *TIMES)

# Of a winner on the test images: the few figures by which DVC compares experiments.
HEADLINE = (*PARTS, "iw_nll_nats", "bits_per_dim", "mse_per_pixel", "active_units", "own_metrics")

# Of a trial: what it takes over from the epoch whose weights it keeps, and of the whole of it.
KEPT = (*PARTS, "active_units")
OUTCOME = (*KEPT, "epochs", "best_epoch", "weights")
TRIAL = ("number", "state", *PARTS, "epochs", "best_epoch", "reason")  # columns of trials.csv
KEPT_FROM = "kept"  # a further column of a search that begins with kept trials


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of nested figures, as `first_epoch.nelbo_nats`."""
    found: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        elif isinstance(value, int | float):
            found[prefix + key] = value
    return found
