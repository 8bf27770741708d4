"""What the last bits of a proposal depend on, beside the code and what it has seen.

Samplers that learn order trials and densities: another last bit, or another order of equals, for
which numpy has a sort for each instruction set, sends them elsewhere for good. So a study's workers
agree on it, as they do on the arithmetic of trainings: whoever claims a trial proposes it, and for
that may play those of others that are not in the ledger yet.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from typing import Any

PROPOSALS = "proposals"  # its key beside those of `pipeline.vae.process.arithmetic`
LIBRARIES = ("optuna", "numpy", "scipy", "cmaes")


@cache
def of_proposals() -> dict[str, str]:
    """The fingerprint: versions, the instruction sets that numpy uses, and a digest of results.

    The digest also differs where BLAS, which no setting of numpy's reaches, computes otherwise.
    """
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return {PROPOSALS: f"{versions}, {_instructions()}, sums {_digest()}"}


def of_training(meta: dict[str, Any]) -> dict[str, str]:
    """The arithmetic that a trial with this `meta` was trained with; proposals are none of it."""
    arithmetic = meta.get("arithmetic") or {}
    return {key: value for key, value in arithmetic.items() if key != PROPOSALS}


def _instructions() -> str:
    """Those of which numpy has kernels beyond its baseline, and which are not switched off."""
    # What numpy.show_runtime prints.
    from numpy._core import _multiarray_umath as core  # type: ignore[attr-defined]

    features: dict[str, bool] = core.__cpu_features__
    return "+".join(name for name in core.__cpu_dispatch__ if features.get(name)) or "baseline"


def _digest() -> str:
    found = hashlib.sha256()
    for result in _results():
        found.update(result.tobytes())
    return found.hexdigest()[:12]


def _results() -> Iterator[Any]:
    import numpy as np

    draw = np.random.RandomState(0)
    values, square = draw.uniform(0.01, 5, 501), draw.normal(size=(60, 60))
    for function in (np.exp, np.log, np.log1p, np.expm1, np.sqrt, np.tanh, np.sin, np.cos):
        yield function(values)
    yield values**1.7
    log_add: Any = np.logaddexp  # its types differ by numpy's version
    yield np.asarray([values.sum(), log_add.reduce(values), values @ values])
    yield np.argsort(np.round(values, 1))  # of equals, too
    yield square @ square.T
    yield np.linalg.cholesky(square @ square.T + 60 * np.eye(60))
    yield np.linalg.eigvalsh(square @ square.T)
    yield np.asarray([f(v) for f in (math.exp, math.log, math.erf, math.cos) for v in values[:99]])
