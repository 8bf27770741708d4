"""The race of candidates in the report."""

from __future__ import annotations

from pathlib import Path

import pytest
from drawn import a_space, write_sweep

from pipeline.figures.inputs import read_inputs
from pipeline.figures.report import statements
from pipeline.files import read_json, write_json


def test_the_report_shows_every_look_and_who_was_dropped(tmp_path: Path) -> None:
    space = a_space()
    paths = write_sweep(tmp_path, space, (1, 8, 8))
    page = statements(space, read_inputs(paths, space.searched))["Candidates"]
    assert "The race" in page
    for figure in ("31.00", "1.25", "0.75", "0.50", "dropped"):
        assert f">{figure}</td>" in page
    assert "for the worse in at most 2.5 % of cases, the one here in at most 2.5 %" in page


@pytest.mark.parametrize("stopped_at", [9001.0, 20.5])
def test_a_pruned_trial_that_stood_lower_than_a_candidate_is_named_with_the_reason(
    stopped_at: float, tmp_path: Path
) -> None:
    space = a_space()
    paths = write_sweep(tmp_path, space, (1, 8, 8))
    table = paths.trials_table.read_text().replace("pruned,40.0", f"pruned,{stopped_at}")
    paths.trials_table.write_text(table)
    page = statements(space, read_inputs(paths, space.searched))["Candidates"]
    says = "A pruned trial is no candidate." in page
    assert says == (stopped_at == 20.5)
    if says:
        assert "stood 1: 1 (20.50 after 1 epochs)" in page
        assert "others stood lower still, which is why they were stopped" in page
        assert "`search.pruner: none` ranks all" in page


def test_what_was_retrained_before_there_were_races_shows_none(tmp_path: Path) -> None:
    space = a_space()
    paths = write_sweep(tmp_path, space, (1, 8, 8))
    winner = read_json(paths.winner)
    del winner["race"]
    write_json(paths.winner, winner)
    assert "The race" not in statements(space, read_inputs(paths, space.searched))["Candidates"]
