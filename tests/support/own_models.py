"""The family of docs/model.md, and folders like a checkout in which it is searched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pipeline.settings.space import Space, load_space

PAGE = Path(__file__).parents[2] / "docs" / "model.md"
EXAMPLE = PAGE.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
FILE, FAMILY = "my_models.py", "my_models.py:ResidualVAE"


def space_of(root: Path, source: str = EXAMPLE, **parameters: Any) -> Space:
    """The space `own` of a folder with `my_models.py`, on digits, with these parameters."""
    raw = {
        "data": {"name": "digits"},
        "parameters": {"family": FAMILY, "lr": {"low": 1e-3, "high": 1e-2}, **parameters},
        "search": {"trials": 3, "epochs": 2, "parallelism": 2},
        "retrain": {"top": 1, "seeds": 2, "epochs": 2},
        "evaluate": {"iw_samples": 2, "nelbo_samples": 1, "probe": False},
        "render": {"projections": ["pca"], "points": 60, "images": 4},
    }
    (root / "search_spaces").mkdir(parents=True, exist_ok=True)
    (root / "search_spaces" / "own.yaml").write_text(yaml.safe_dump(raw))
    (root / FILE).write_text(source)
    return load_space(root, "own")
