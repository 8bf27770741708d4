"""Figures in words: what each is called, and how many digits of it are shown."""

from __future__ import annotations

from typing import Any

import pandas as pd

NAMES = {
    "nelbo_nats": "NELBO, nats",
    "recon_nats": "reconstruction, nats",
    "kl_nats": "KL, nats",
    "excess_nats": "excess over the entropy floor, nats",
    "bits_per_dim": "bits per dimension",
    "mse_per_pixel": "MSE per pixel",
    "mae_per_pixel": "MAE per pixel",
    "nelbo_samples": "posterior samples of the NELBO",
    "iw_nll_nats": "importance-weighted NLL, nats",
    "iw_samples": "importance samples K",
    "active_units": "active latent units",
}
NONE = "–"


def readable(key: str) -> str:
    """A readable name: dots separate groups, and a known figure may have words around it."""
    *groups, last = key.split(".")
    known = next((name for name in NAMES if name in last), "")
    before, _, after = last.partition(known) if known else (last, "", "")
    parts = [*groups, before, NAMES.get(known, ""), after]
    return " · ".join(part.strip("_").replace("_", " ") for part in parts if part)


def show(key: str, value: Any) -> str:
    """With the digits that its key asks for."""
    if value is None or pd.isna(value):
        return NONE
    if isinstance(value, int):
        return str(value)
    if "bits_per_dim" in key:
        return f"{value:.4f}"
    return f"{value:.2f}" if "nats" in key else f"{value:.4g}"


def from_csv(value: Any) -> str:
    """A cell as pandas read it: whole floats come from columns with empty cells."""
    if isinstance(value, float):
        return NONE if pd.isna(value) else f"{value:g}" if value.is_integer() else f"{value:.3g}"
    return str(value)
