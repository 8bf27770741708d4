"""A checkout that is moved takes its MLflow store along: runs, files and the champion."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from worked import Worked

from pipeline.settings.machine import Machine
from pipeline.tracking.store import connect

pytestmark = pytest.mark.slow


@pytest.fixture
def moved(worked: Worked, tmp_path: Path) -> Worked:
    """A finished sweep in another folder than that in which MLflow was sent it."""
    copy = worked.copy(tmp_path / "a #1 50%")
    (copy.root / "machine.yaml").write_text("workers: 1\ndevice: cpu\n")
    return copy


def uri(of: Worked) -> str:
    return f"sqlite:///{of.runs / 'state' / 'mlflow.db'}"


def runs(of: Worked) -> dict[str, str]:
    """Where MLflow looks for the files of each run."""
    client = connect(uri(of))
    (found,) = (each for each in client.search_experiments() if each.name == "tiny")
    return {
        run.info.run_id: run.info.artifact_uri for run in client.search_runs([found.experiment_id])
    }


def test_the_store_comes_along_with_its_champion(
    worked: Worked, moved: Worked, tmp_path: Path
) -> None:
    client = connect(uri(moved))
    (first,) = client.search_model_versions("name = 'tiny'")
    by_hand = client.create_model_version("tiny", first.source, first.run_id)
    client.set_registered_model_alias("tiny", "champion", by_hand.version)
    before = runs(moved)
    assert moved.give("status", "tiny")[1].count("`python -m pipeline sync tiny`") == 1
    code, said, err = moved.give("sync", "tiny")
    assert (code, err) == (0, "")
    assert said.startswith("sync tiny: 0 new runs, ")
    after = runs(moved)
    assert after.keys() == before.keys()
    here = (moved.runs / "state" / "mlflow-artifacts" / "tiny").as_uri()
    assert all(location.startswith(f"{here}/") for location in after.values())
    aliases = connect(uri(moved)).get_registered_model("tiny").aliases
    assert str(aliases["champion"]) == str(by_hand.version), "nobody has made it another one"
    place = first.source.removeprefix(f"runs:/{first.run_id}/")
    files = connect(uri(moved)).list_artifacts(first.run_id, place)
    assert f"{place}/MLmodel" in [file.path for file in files]
    left = runs(worked.copy(tmp_path / "left"))
    assert all(str(worked.root) in location for location in left.values())
    assert moved.give("sync", "tiny")[1].startswith("sync tiny: 0 new runs, 0 metric points, 0 art")


def test_a_database_without_its_files_is_not_turned_to_an_empty_folder(moved: Worked) -> None:
    shutil.rmtree(moved.runs / "state" / "mlflow-artifacts")
    code, _, said = moved.give("sync", "tiny")
    assert (code, said.count("\n")) == (2, 1)
    assert "keeps the artifacts of tiny in" in said
    assert "move the folder back" in said


def test_ui_takes_the_store_along(moved: Worked, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.commands import ui

    def refuse(*_: object) -> None:
        raise KeyboardInterrupt  # as Ctrl-C, once the server would start

    monkeypatch.setattr(ui, "guarded", refuse)
    assert ui.serve_ui(moved.root, Machine(), 5000) == 0
    here = (moved.runs / "state" / "mlflow-artifacts" / "tiny").as_uri()
    assert all(location.startswith(f"{here}/") for location in runs(moved).values())
