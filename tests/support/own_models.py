"""The files of docs/model.md, and folders like a checkout in which they are used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from sklearn.datasets import load_digits

from pipeline.settings.space import Space, load_space

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "model.md"


def _examples(page: Path) -> list[str]:
    parts = page.read_text(encoding="utf-8").split("```python\n")
    return [part.split("```")[0] for part in parts[1:]]


EXAMPLE, LIKELIHOOD, METRICS, SAMPLER = _examples(PAGE)
(READER,) = _examples(DOCS / "data.md")
FILE, FAMILY = "my_models.py", "my_models.py:ResidualVAE"
METRICS_FILE, READER_FILE = "my_metrics.py", "my_reader.py"
LIKELIHOOD_FILE = "my_likelihoods.py"
SAMPLER_FILE = "my_samplers.py"
NAMED = {"metrics": [f"{METRICS_FILE}:sharpness", f"{METRICS_FILE}:errors"]}


def space_of(
    root: Path,
    source: str = EXAMPLE,
    *,
    metrics: str | None = None,
    evaluate: dict[str, Any] = NAMED,
    likelihood: str | None = None,
    name: str = "StudentT",
    sampler: str | None = None,
    proposes: str = "Crossover",
    **parameters: Any,
) -> Space:
    """The space `own` of a folder with `my_models.py`, on digits, with these parameters.

    With the source of `my_metrics.py` also with those of its metrics that `evaluate` names; with
    that of `my_likelihoods.py` with its class `name`, with that of `my_samplers.py` with its class
    `proposes`.
    """
    raw: dict[str, Any] = {
        "data": {"name": "digits"},
        "parameters": {"family": FAMILY, "lr": {"low": 1e-3, "high": 1e-2}, **parameters},
        "search": {"trials": 3, "epochs": 2, "parallelism": 2},
        "retrain": {"top": 1, "seeds": 2, "epochs": 2},
        "evaluate": {"iw_samples": 2, "nelbo_samples": 1, "probe": False},
        "render": {"projections": ["pca"], "points": 60, "images": 4},
    }
    root.mkdir(parents=True, exist_ok=True)
    if metrics is not None:
        raw["evaluate"] |= evaluate
        (root / METRICS_FILE).write_text(metrics)
    if likelihood is not None:
        raw["model"] = {"likelihood": f"{LIKELIHOOD_FILE}:{name}"}
        (root / LIKELIHOOD_FILE).write_text(likelihood)
    if sampler is not None:
        raw["search"] |= {"sampler": f"{SAMPLER_FILE}:{proposes}", "startup_trials": 2, "trials": 4}
        (root / SAMPLER_FILE).write_text(sampler)
    (root / "search_spaces").mkdir(parents=True, exist_ok=True)
    (root / "search_spaces" / "own.yaml").write_text(yaml.safe_dump(raw))
    (root / FILE).write_text(source)
    return load_space(root, "own")


def write_digits(file: Path) -> None:
    """200 of them as the reader of docs/data.md takes them."""
    digits = load_digits()
    np.savetxt(file, np.c_[digits.target, digits.data][:200], fmt="%d", delimiter=",")
