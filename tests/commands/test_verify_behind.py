"""An audit tells what is not there yet from what is false: stages, and what MLflow was sent."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from studies import next_lease
from worked import Worked

from pipeline.paths import Paths
from pipeline.settings.machine import load_machine
from pipeline.settings.space import load_space
from pipeline.study.storage.ledger import Ledger
from pipeline.sync.mlflow_runs import Sweep
from pipeline.tracking import differences
from pipeline.tracking.mirror import Mirror
from pipeline.tracking.store import MirrorUnavailable, store_of

BEHIND = "MLflow is behind: 1 run: `python -m pipeline sync tiny`"
STUDY = "(SELECT run_uuid FROM tags WHERE key = 'kind' AND value = 'study')"
TRIAL = "(SELECT run_uuid FROM tags WHERE key = 'kind' AND value = 'trial')"
FALSE = {
    "a test figure": (
        "UPDATE latest_metrics SET value = value - 1 WHERE key = 'test_nelbo_nats'",
        "metric test_nelbo_nats is ",
    ),
    "a trial's best": (
        "UPDATE latest_metrics SET value = value - 1 WHERE key = 'best_nelbo_nats'",
        "metric best_nelbo_nats is ",
    ),
    "the search's best": (
        "UPDATE latest_metrics SET value = value - 1 WHERE key = 'search_best_nelbo_nats'",
        "metric search_best_nelbo_nats is ",
    ),
    "a figure that nobody measured": (
        "INSERT INTO latest_metrics SELECT 'test_fid', 1.0, 0, 0, 0, run_uuid FROM"
        f" runs WHERE run_uuid IN {STUDY}",
        "metric test_fid: 1.0 is not in the record",
    ),
    "a curve": (
        "UPDATE metrics SET value = value - 1 WHERE key = 'recon_nats' AND step = 1",
        "metric recon_nats: ",
    ),
    "another epoch": (
        "INSERT INTO metrics SELECT key, value - 1, timestamp, run_uuid, 99, is_nan FROM metrics"
        f" WHERE key = 'nelbo_nats' AND step = 1 AND run_uuid IN {TRIAL}",
        "at step 99 is not in the record",
    ),
    "a parameter": ("UPDATE params SET value = '0.5' WHERE key = 'lr'", "param lr is 0.5"),
    "the winner": ("UPDATE tags SET value = 'x' WHERE key = 'winner'", "tag winner is x"),
    "the data": ("UPDATE tags SET value = 'x' WHERE key = 'data_sha256'", "tag data_sha256 is x"),
    "a failure": (f"UPDATE runs SET status = 'FAILED' WHERE run_uuid IN {TRIAL}", "status is"),
    "a token": ("UPDATE tags SET value = 'x' WHERE key = 'vae_pipeline.token'", "token is x, but"),
    "a state": ("UPDATE tags SET value = 'failed' WHERE key = 'state'", "tag state is failed"),
}  # fmt: skip
MISSING = {
    "the winner": "DELETE FROM tags WHERE key = 'winner'",
    "a figure": "DELETE FROM latest_metrics WHERE key = 'test_nelbo_nats'",
    "the end of a study": f"UPDATE runs SET status = 'RUNNING' WHERE run_uuid IN {STUDY}",
    "a parameter": f"DELETE FROM params WHERE key = 'likelihood' AND run_uuid IN {STUDY}",
}


@pytest.fixture
def mine(worked: Worked, tmp_path: Path) -> Worked:
    copy = worked.copy(tmp_path / "clone")
    mirror(copy, on=True)
    copy.done("sync", "tiny")
    return copy


def mirror(mine: Worked, *, on: bool) -> None:
    off = "" if on else "tracking: none\n"
    (mine.root / "machine.yaml").write_text(f"workers: 1\ndevice: cpu\n{off}")


def change(mine: Worked, *statements: str) -> None:
    with closing(sqlite3.connect(mine.runs / "state" / "mlflow.db")) as store, store:
        for statement in statements:
            assert store.execute(statement).rowcount > 0, statement


def unmarked(mine: Worked) -> None:
    """What was sent is not known any more."""
    for file in (mine.runs / "state").glob("mlflow-*.json"):
        file.unlink()


def verified(mine: Worked) -> tuple[int, list[str]]:
    """The exit code and what is said on standard output, without what was looked at."""
    code, out, _ = mine.give("verify", "tiny")
    return code, [line for line in out.splitlines() if not line.startswith("verify tiny: all")]


def made_anew(mine: Worked) -> None:
    """As DVC does it: outputs are away, MLflow is deleted and made anew, outputs come back."""
    away = mine.root / "away"
    away.mkdir()
    for stage in ("evaluate", "render"):
        shutil.move(mine.runs / "tiny" / stage, away)
    (mine.runs / "state" / "mlflow.db").unlink()
    mine.done("sync", "tiny")
    for stage in ("evaluate", "render"):
        shutil.move(away / stage, mine.runs / "tiny")


def test_outputs_that_came_back_are_lag_until_they_are_sent(mine: Worked) -> None:
    assert verified(mine) == (0, [])
    made_anew(mine)
    assert "1 of 6 runs of tiny are not up to date" in mine.give("status", "tiny")[1]
    assert verified(mine) == (0, [BEHIND])
    mine.done("sync", "tiny")
    assert verified(mine) == (0, [])


def test_a_study_that_somebody_deleted_in_mlflow_has_no_new_version(mine: Worked) -> None:
    """Its model would not be there, and no page is made of it."""
    made_anew(mine)
    change(mine, f"UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid IN {STUDY}")
    code, out, err = mine.give("sync", "tiny")
    assert (code, err) == (0, "")
    assert "; its study was deleted in MLflow: no new model version" in out
    assert "; model version 1 (champion" in mine.give("sync", "tiny", "--rebuild")[1]
    assert verified(mine) == (0, [])


def test_tags_that_somebody_has_spoilt_are_sent_anew(mine: Worked) -> None:
    """By hand in MLflow; numbers of ours that are none."""
    spoilt = ("'vae_pipeline.token'", "'vae_pipeline.generation'")
    change(mine, f"UPDATE tags SET value = 'x' WHERE key = {spoilt[0]}")
    with closing(sqlite3.connect(mine.runs / "state" / "mlflow.db")) as store, store:
        store.execute(
            f"INSERT INTO tags SELECT {spoilt[1]}, 'x', run_uuid FROM tags WHERE key = {spoilt[0]}"
        )
    change(mine, "UPDATE latest_metrics SET value = value - 1 WHERE key = 'nelbo_nats'")
    unmarked(mine)
    mine.done("sync", "tiny")
    assert verified(mine) == (0, [])


def test_a_store_that_is_not_there_is_behind_with_all_runs(mine: Worked) -> None:
    (mine.runs / "state" / "mlflow.db").unlink()
    assert verified(mine) == (0, [BEHIND.replace("1 run", "6 runs")])


@pytest.mark.parametrize(("statement", "line"), FALSE.values(), ids=FALSE)
@pytest.mark.parametrize("late", [False, True], ids=["up to date", "behind"])
def test_what_mlflow_states_falsely_is_found_behind_or_not(
    statement: str, line: str, late: bool, mine: Worked
) -> None:
    change(mine, statement)
    if late:
        unmarked(mine)
    code, lines = verified(mine)
    assert code == 2
    assert any(each.startswith("MLflow: ") and line in each for each in lines), lines


@pytest.mark.parametrize("statement", MISSING.values(), ids=MISSING)
def test_what_mlflow_lacks_of_what_was_sent_is_found(statement: str, mine: Worked) -> None:
    change(mine, statement)
    assert verified(mine)[0] == 2
    unmarked(mine)
    assert verified(mine) == (0, [BEHIND])


def evaluated(mine: Worked, samples: int) -> None:
    """An edit of evaluate, and the stages that it asks for; MLflow is sent nothing."""
    mirror(mine, on=False)
    mine.edit("evaluate", "iw_samples", samples)
    for stage in ("evaluate", "render"):
        mine.done(stage, "tiny")
    mirror(mine, on=True)


def test_figures_of_an_earlier_evaluation_are_lag_if_they_are_known_to_have_been_sent(
    mine: Worked,
) -> None:
    evaluated(mine, 2)
    assert verified(mine) == (0, [BEHIND])
    change(mine, FALSE["a test figure"][0])
    assert verified(mine)[0] == 2
    mine.done("sync", "tiny")
    assert verified(mine) == (0, [])
    evaluated(mine, 1)
    unmarked(mine)
    code, lines = verified(mine)
    assert code == 2
    assert any("metric test_iw_nll_nats is " in line for line in lines), lines


@pytest.mark.parametrize("killed", [False, True])
def test_an_edit_that_was_undone_leaves_lag_also_where_who_sent_it_was_killed(
    mine: Worked, killed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated(mine, 0)
    mine.done("sync", "tiny")
    before = mine.copy(mine.root.parent / "before")
    evaluated(mine, 2)
    with monkeypatch.context() as patch:

        def end(*_: object) -> None:
            patch.setattr("pipeline.tracking.mirror.save_cursor", lambda *_: None)
            raise MirrorUnavailable("killed after the figures")

        if killed:
            patch.setattr("pipeline.tracking.mirror.send_dataset", end)
        assert mine.give("sync", "tiny")[0] == 2 * killed
    for stage in ("evaluate", "render"):  # as DVC brings them back, giving no command of ours
        shutil.rmtree(mine.runs / "tiny" / stage)
        shutil.copytree(before.runs / "tiny" / stage, mine.runs / "tiny" / stage)
    mine.edit("evaluate", "iw_samples", 0)
    assert verified(mine) == (0, [BEHIND])
    mine.done("sync", "tiny")
    assert verified(mine) == (0, [])


def test_what_a_live_sweep_sends_while_mlflow_is_read_is_no_finding(
    mine: Worked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A night adds a fourth trial to a finished sweep while an audit looks at MLflow."""
    paths, space = Paths(mine.root, "tiny"), load_space(mine.root, "tiny")
    ledger = Ledger(f"sqlite:///{paths.ledger}")
    (study,) = ledger.studies("tiny", "search")
    (done, *_) = ledger.trials(study)
    lease = next_lease(ledger, study, done.parameters, budget=4, meta=done.meta)
    assert lease
    sweep, stored = Sweep(space, paths, ledger, live=True), differences._stored

    def goes_on(epochs: int) -> None:
        ledger.report(lease, done.curve[:epochs])
        Mirror(*store_of(load_machine(mine.root), paths)).sync("tiny", sweep.changes())

    def read(*given: Any) -> Any:
        goes_on(4)
        return stored(*given)

    goes_on(3)
    both = BEHIND.replace("1 run", "2 runs")  # the trial, and the study
    assert verified(mine) == (0, [both])
    monkeypatch.setattr(differences, "_stored", read)
    assert verified(mine) == (0, [both])
    change(mine, FALSE["a parameter"][0])
    assert verified(mine)[0] == 2
    ledger.close()


def test_a_stage_that_has_written_nothing_is_named(mine: Worked) -> None:
    """A render that was killed; its folder is empty, as DVC leaves it."""
    render = mine.runs / "tiny" / "render"
    shutil.rmtree(render)
    render.mkdir()
    mine.done("sync", "tiny")
    missing = "render has written nothing: render/report.html is not there"
    assert verified(mine) == (0, [missing])
    mine.edit("evaluate", "iw_samples", 2)
    code, lines = verified(mine)
    assert (code, len(lines), lines[-1]) == (2, 2, missing)
    for stage in ("retrain", "evaluate"):
        shutil.rmtree(mine.runs / "tiny" / stage)
    mine.edit("evaluate", "iw_samples", 1)
    code, out, _ = mine.give("verify", "tiny", "--no-mlflow")
    assert code == 0
    assert out.splitlines()[1:] == [
        "retrain has written nothing: retrain/winner.json is not there",
        "evaluate has written nothing: evaluate/metrics.json is not there",
        missing,
    ]
