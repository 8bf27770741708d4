"""What `where` says of a run when the checkout has moved on, or its ledger is elsewhere."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from recording import record_stages
from records import copy_db
from sweeps import Desk

from pipeline.commands.where import where_text
from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.sync.mlflow_runs import Sweep
from pipeline.tracking.mirror import Mirror
from pipeline.tracking.store import store_of

FILES = {"search": "study.json", "retrain": "runs.json"}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A finished sweep whose dvc.lock is of its outputs."""
    desk = Desk(tmp_path)
    desk.run_all_stages()
    for stage, study in (("search", desk.study), ("retrain", desk.candidate)):
        write_json(desk.paths.stage(stage) / FILES[stage], [{"study": study.id, "trials": []}])
    record_stages(desk.paths, desk.space, "search", "retrain", "evaluate", "render")
    stages = {f"{stage}@tiny": {"outs": [_out(desk, stage)]} for stage in FILES}
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"stages": stages}))
    return desk


def _out(desk: Desk, stage: str) -> dict[str, str]:
    file = desk.paths.stage(stage) / FILES[stage]
    path = str(file.relative_to(desk.root))
    return {"path": path, "md5": hashlib.md5(file.read_bytes()).hexdigest()}


@pytest.fixture
def ids(desk: Desk, empty_db: Path) -> dict[str, str]:
    """The sweep's runs in MLflow: of the study, of a trial, of a candidate."""
    copy_db(empty_db, desk.paths.mlflow_db)
    sweep = Sweep(desk.space, desk.paths, desk.ledger)
    found = Mirror(*store_of(desk.machine, desk.paths)).sync("tiny", sweep.changes()).run_ids
    study, candidate = sweep.key(desk.study.id), sweep.key(desk.candidate.id)
    keys = {"study": study, "trial": f"{study}/00001", "candidate": f"{candidate}/00000"}
    return {kind: found[key] for kind, key in keys.items()}


def said(desk: Desk, run_id: str) -> dict[str, str]:
    """The lines of `where` by their heading."""
    text = where_text(desk.root, desk.machine, run_id).partition("\n\n")[0]
    return {line[:12].strip(): line[12:] for line in text.splitlines()}


def test_dvc_lock_is_quoted_for_its_own_study_alone(desk: Desk, ids: dict[str, str]) -> None:
    stages = {"study": "search", "trial": "search", "candidate": "retrain"}
    for kind, stage in stages.items():
        out = _out(desk, stage)
        shown = f"{stage}@tiny: {FILES[stage]} {out['md5']}"
        assert said(desk, ids[kind])["dvc.lock"] == shown
    for stage in FILES:  # given by hand since `dvc repro`, with other settings that leave the study
        later = [{"study": study.id, "trials": [1]} for study in (desk.study, desk.candidate)]
        write_json(desk.paths.stage(stage) / FILES[stage], later)
    record_stages(desk.paths, desk.space, "search", "retrain", "evaluate", "render")
    for kind, stage in stages.items():
        other = f"{stage}@tiny is of other outputs than are here"
        assert said(desk, ids[kind])["dvc.lock"].startswith(other)


def test_a_run_whose_ledger_is_elsewhere(desk: Desk, ids: dict[str, str], tmp_path: Path) -> None:
    assert said(desk, ids["study"])["git commit"] == "c0ffee, nothing uncommitted"
    desk.ledger.close()
    away = tmp_path / "away.db"
    desk.paths.ledger.rename(away)
    lines = said(desk, ids["study"])
    for name in ("git commit", "code", "lock file", "made on"):
        assert lines[name].startswith("not known: the ledger of this checkout has no trials")
    assert said(desk, ids["trial"])["git commit"] == "c0ffee, nothing uncommitted"
    assert not desk.paths.ledger.exists()


@pytest.mark.parametrize(
    ("name", "tags"),
    [
        ("../../search_spaces/tiny", {}),  # a server's experiments may be called anything
        ("x; rm -rf ~", {}),
        ("tiny", {"kind": "demo"}),
        ("tiny", {"data_sha256": None}),
        ("tiny", {"git_commit": "x; rm -rf ~"}),
        ("tiny", {"kind": "trial", "number": "0; rm -rf ~"}),
    ],
)
def test_a_run_of_somebody_else_becomes_no_path_and_no_command(
    name: str, tags: dict[str, str | None], desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = {"kind": "study", "study": desk.study.id, "data_sha256": "d", "mlflow.runName": "x"}
    found = {key: value for key, value in (ours | tags).items() if value is not None}
    monkeypatch.setattr("pipeline.commands.where.find_run", lambda *_: (name, found))
    with pytest.raises(UserError, match="was not made by this pipeline"):
        where_text(desk.root, desk.machine, "0" * 32)


def _foreign(db: Path) -> None:
    with closing(sqlite3.connect(db)) as other:
        other.execute("CREATE TABLE notes (text VARCHAR)")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "garbage": (
        lambda db: db.write_bytes(b"garbage" * 1000),
        "MLflow's database {db} is damaged (file is not a database): move it away, and the next"
        " sync makes another, then try again",
    ),
    "somebody else's": (
        lambda db: (db.unlink(), _foreign(db)),
        "MLflow's database {db} is damaged (it holds notes of something else): move it away, and"
        " the next sync makes another, then try again",
    ),
    "cut off": (
        lambda db: db.write_bytes(db.read_bytes()[: db.stat().st_size // 8]),
        "MLflow's database {db} is damaged (database disk image is malformed): move it away, and"
        " the next sync makes another, then try again",
    ),
    "folder": (
        lambda db: (db.unlink(), db.mkdir()),
        "MLflow's database {db} cannot be used: [Errno 21] Is a directory: '{db}': mend that, then"
        " try again",
    ),
    "gone": (
        lambda db: db.unlink(),
        "there is no MLflow database {db}: mount its folder, or `python -m pipeline sync` makes it"
        " from the ledger",
    ),
    "empty": (
        lambda db: db.write_bytes(b""),
        "there is no MLflow database {db}: mount its folder, or `python -m pipeline sync` makes it"
        " from the ledger",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_store_is_told_with_its_own_remedy(
    damage: str, desk: Desk, ids: dict[str, str]
) -> None:
    spoil, expected = DAMAGES[damage]
    db = desk.paths.mlflow_db
    spoil(db)
    left = db.read_bytes() if db.is_file() else None
    with pytest.raises(UserError) as caught:
        where_text(desk.root, desk.machine, ids["trial"])
    assert str(caught.value).removeprefix(f"where {ids['trial']}: ") == expected.format(db=db)
    assert (db.read_bytes() if db.is_file() else None) == left


def test_a_damaged_ledger_is_told_as_such(desk: Desk, ids: dict[str, str]) -> None:
    desk.ledger.close()
    desk.paths.ledger.write_bytes(b"garbage" * 1000)
    with pytest.raises(UserError) as caught:
        where_text(desk.root, desk.machine, ids["trial"])
    assert str(caught.value) == (
        f"the ledger {desk.paths.ledger} is damaged (file is not a database): put a backup in its"
        " place, or move it away to search anew"
    )
