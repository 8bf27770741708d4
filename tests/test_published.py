"""Published figures are data: texts are as they follow from them, and one repeats to the digit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bench import published

ROOT = Path(__file__).parent.parent
CHEAP = "digits"


def test_the_tables_of_all_texts_are_as_they_follow() -> None:
    """Run `python -m bench.published --write` after a figure, a space or the code has changed."""
    texts = published.texts()
    assert ROOT / "README.md" in texts
    for file in texts:
        text = file.read_text(encoding="utf-8")
        assert published.filled(text) == text, file


def test_every_figure_of_a_table_is_followed_by_the_mark_of_its_row() -> None:
    assert published.unmarked() == []


def test_every_row_says_where_it_comes_from() -> None:
    for name, row in published.rows().items():
        assert row.content.keys() >= {"sweep", "command", "commit", "semantics", "space", "values"}
        assert row.content["sweep"] in row.content["command"] or "repro" in row.content["command"]
        assert len(row.content["space"]) == published.DIGITS, name


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with the table, the spaces and a text."""
    for name in ("docs", "search_spaces"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "README.md", tmp_path)
    return tmp_path


def test_a_space_that_has_changed_since_is_named_in_the_text(site: Path) -> None:
    space = site / "search_spaces" / "mlp_dense.yaml"
    text = (site / "docs" / "systems.md").read_text(encoding="utf-8")
    space.write_text(space.read_text() + "# a comment changes nothing\n")
    assert published.filled(text, site) == text
    space.write_text(space.read_text().replace("lr: 1.0e-3", "lr: 2.0e-3"))
    assert published.rows(site)["mlp_dense"].stale == "earlier space"
    assert "150.20 (earlier space)" in published.filled(text, site)


def test_code_that_computes_something_else_is_named_in_the_text(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "TRAINING_SEMANTICS", published.TRAINING_SEMANTICS + 1)
    text = (site / "docs" / "systems.md").read_text(encoding="utf-8")
    assert "150.20 (earlier code)" in published.filled(text, site)


@pytest.mark.slow
def test_a_cheap_row_repeats_to_the_digit(tmp_path: Path) -> None:
    """On like arithmetic: other processors and versions of torch differ in the last bits, and those
    decide what is proposed."""
    row = published.rows()[CHEAP]
    (tmp_path / "search_spaces").mkdir()
    space = yaml.safe_load((ROOT / "search_spaces" / f"{CHEAP}.yaml").read_text())
    (tmp_path / "search_spaces" / f"{CHEAP}.yaml").write_text(yaml.safe_dump(space))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": "none"}
    for stage in ("prepare", "search", "retrain", "evaluate"):
        subprocess.run(
            [sys.executable, "-m", "pipeline", stage, CHEAP],
            cwd=tmp_path,
            env=environment,
            check=True,
            capture_output=True,
        )
    runs = tmp_path / "runs" / CHEAP
    here = json.loads((runs / "retrain" / "winner.json").read_text())["arithmetic"]
    if here != row.content["arithmetic"]:
        pytest.skip(f"measured on {row.content['arithmetic']}, but this is {here}")
    metrics = json.loads((runs / "evaluate" / "metrics.json").read_text())
    assert round(metrics["nelbo_nats"], 4) == row.nelbo
    assert round(metrics["iw_nll_nats"], 4) == row.iw
