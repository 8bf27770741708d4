"""Hashes and the seeds derived from them."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def derive_seed(*parts: Any) -> int:
    """A seed in [0, 2**63) that depends on every part and on nothing else."""
    return int(digest(list(parts))[:16], 16) >> 1


def trial_seed(seed: int, number: int, *, fresh: bool) -> int:
    """Of the weights, shuffles and noise of a search's trial; `fresh`: of a candidate's run."""
    return derive_seed(seed, "seed" if fresh else "trial", number)
