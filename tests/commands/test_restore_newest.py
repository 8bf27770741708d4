"""Kept trials, races and files of one's own are trained again and written back, after edits too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from own_models import FILE, LIKELIHOOD, LIKELIHOOD_FILE, space_of
from worked import Worked

from pipeline.paths import Paths
from pipeline.settings.space import load_space
from pipeline.study.identity import candidate_study, search_study

TABLE = "search_spaces/tiny.trials.jsonl"
pytestmark = pytest.mark.slow


def studies(worked: Worked, file: str, name: str = "tiny") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((worked.runs / name / file).read_text())
    return found


def reproduced(worked: Worked, name: str, number: int, study: str) -> str:
    code, out, err = worked.give("reproduce", name, str(number), "--study", study)
    assert code == 0, err
    return out


def written_back(worked: Worked, name: str, study: str) -> tuple[str, str]:
    """The studies of the file that `space` prints, put in its place: of its search, and of a
    candidate with all that it fixes."""
    code, out, err = worked.give("space", study)
    assert code == 0, err
    (worked.root / "search_spaces" / f"{name}.yaml").write_text(out)
    manifest = json.loads(Paths(worked.root, name).manifest.read_text())
    space, data = load_space(worked.root, name), manifest["sha256"]
    return search_study(space, data).id, candidate_study(space, data, {}).id


def test_a_kept_trial_whose_table_is_gone(worked: Worked, tmp_path: Path) -> None:
    mine = worked.copy(tmp_path / "clone")
    mine.done("keep", "tiny")
    mine.edit("search", "observations", TABLE)
    mine.edit("search", "trials", 4)
    mine.done("search", "tiny")
    (study,) = studies(mine, "search/study.json")
    assert ["kept" in part for part in study["trials"]] == [True, True, True, False]
    table = (mine.root / TABLE).read_bytes()
    (mine.root / TABLE).unlink()
    raw = yaml.safe_load((mine.root / "search_spaces/tiny.yaml").read_text())
    del raw["search"]["observations"]
    raw["parameters"]["lr"] = {"low": 1e-3, "high": 2e-3}
    (mine.root / "search_spaces/tiny.yaml").write_text(yaml.safe_dump(raw))
    for number in (1, 3):
        assert "identical in all 12 epochs" in reproduced(mine, "tiny", number, study["study"])
    (mine.root / TABLE).write_bytes(table)
    assert written_back(mine, "tiny", study["study"])[0] == study["study"]


def test_a_run_that_a_race_has_dropped(worked: Worked, tmp_path: Path) -> None:
    mine = worked.copy(tmp_path / "clone")
    mine.edit("parameters", "lr", {"choices": [1e-5, 1e-2]})
    mine.edit("parameters", "latent_dim", 3)
    mine.edit("search", "sampler", "grid")
    mine.edit("search", "trials", 2)
    mine.edit("retrain", "top", 2)
    mine.edit("retrain", "epochs", 20)
    for stage in ("search", "retrain"):
        mine.done(stage, "tiny")
    entries = studies(mine, "retrain/runs.json")
    paused = [
        (each["study"], run["number"], len(run["curve"]))
        for each in entries
        for run in each["trials"]
        if run["state"] == "paused"
    ]
    assert paused
    mine.edit("parameters", "lr", 1e-3)
    for study, number, epochs in paused:
        said = reproduced(mine, "tiny", number, study)
        assert f"identical in all {epochs} epochs, after which it is paused" in said
    assert written_back(mine, "tiny", paused[0][0])[1] == paused[0][0]


def test_a_family_and_a_likelihood_of_ones_own(tmp_path: Path) -> None:
    mine = Worked(tmp_path / "clone")
    width = {"low": 4, "high": 8, "step": 4}
    space_of(mine.root, likelihood=LIKELIHOOD, width=width, latent_dim=3)
    (mine.root / "machine.yaml").write_text("workers: 1\ntracking: none\ndevice: cpu\n")
    for stage in ("prepare", "search"):
        mine.done(stage, "own")
    (study,) = studies(mine, "search/study.json", "own")
    space_of(mine.root, likelihood=LIKELIHOOD, width=4, latent_dim=2)
    assert "trial 2 is identical in all " in reproduced(mine, "own", 2, study["study"])
    texts = {file: (mine.root / file).read_text() for file in (FILE, LIKELIHOOD_FILE)}
    for file, text in texts.items():
        (mine.root / file).write_text(text + "\n# edited\n")
        line = mine.refused("reproduce", "own", "2", "--study", study["study"])
        assert f"study {study['study']} is of {file} of SHA-256" in line
        code, out, _ = mine.give("space", study["study"], "--file", file)
        assert code == 0
        assert out == text
        (mine.root / file).write_text(out)
    assert written_back(mine, "own", study["study"])[0] == study["study"]
