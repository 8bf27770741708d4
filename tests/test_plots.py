"""The templates of `dvc plots show`, filled by DVC's own renderer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def filled(stage: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the browser gets for a stage's plot."""
    from dvc_render.vega import VegaRenderer

    ((file, options),) = STAGES[stage]["plots"][0].items()
    points = [{"rev": "workspace", **row} for row in rows]
    folder = str(ROOT / ".dvc" / "plots")
    return VegaRenderer(points, file, template_dir=folder, **options).get_filled_template()


@pytest.mark.parametrize(
    ("stage", "of_a_line"),
    [("search", {"number": [0, 1]}), ("retrain", {"candidate": [0, 0], "seed": [0, 1]})],
)
def test_each_series_has_its_own_line(stage: str, of_a_line: dict[str, list[int]]) -> None:
    rows = [
        {**{key: values[line] for key, values in of_a_line.items()}, "epoch": epoch,
         "nelbo_nats": 100.0 - line - epoch}
        for line in (0, 1)
        for epoch in (1, 2)
    ]  # fmt: skip
    spec = filled(stage, rows)
    assert "<DVC_METRIC" not in json.dumps(spec)
    assert spec["encoding"]["color"]["field"] == "line"
    (series,) = [each["calculate"] for each in spec["transform"] if each.get("as") == "line"]
    assert {part.split(".")[1] for part in series.split() if "datum" in part} >= {
        *(f"{key}" for key in of_a_line)
    }
    assert spec["encoding"]["strokeWidth"]["condition"]["value"] == 4
    assert len(spec["data"]["values"]) == 4


def test_what_dvc_writes_is_ignored_by_git() -> None:
    assert "dvc_plots/" in (ROOT / ".gitignore").read_text().splitlines()
