"""The prepared views that each sync writes; what they look like, test_browser.py sees."""

from __future__ import annotations

import base64
import json
import math
import shutil
import zlib
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from records import Store, copy_db
from studies import next_lease
from sweeps import META, Desk

from pipeline.commands import ui
from pipeline.paths import STAGES
from pipeline.sync import mlflow_columns
from pipeline.sync.mlflow_runs import Sweep
from pipeline.tracking.differences import differences
from pipeline.tracking.send import NOTE_TAG
from pipeline.tracking.store import store_of
from pipeline.tracking.views import COMPARE, SHARED, compare_link, links, views_of


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A sweep that is finished."""
    monkeypatch.setitem(META, "user", "ada")
    desk = Desk(tmp_path)
    desk.run_all_stages()
    return desk


@pytest.fixture
def store(desk: Desk, empty_db: Path) -> Store:
    copy_db(empty_db, desk.paths.mlflow_db)
    return Store(*store_of(desk.machine, desk.paths), "tiny")


def sync(desk: Desk, store: Store) -> None:
    sweep = Sweep(desk.space, desk.paths, desk.ledger)
    store.mirror().sync("tiny", sweep.changes(), sweep.views())


def tags(store: Store) -> dict[str, str]:
    found: dict[str, str] = store.client.get_experiment(store.experiment_id).tags
    return found


def state(value: str) -> dict[str, Any]:
    """What MLflow's pages read in the tag of a view."""
    kind, _, packed = json.loads(value)["state"].partition(";")
    assert kind == "deflate"
    found: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(packed)))
    return found


def test_a_view_finds_its_runs_and_the_experiment_links_to_it(desk: Desk, store: Store) -> None:
    sync(desk, store)
    held = tags(store)
    for key, count in {"trials": 2, "candidates": 2}.items():
        view = state(held[SHARED + key])
        order = [f"{view['orderByKey']} ASC"]
        runs = store.client.search_runs([store.experiment_id], view["searchFilter"], order_by=order)
        assert len(runs) == count
        values = [run.data.metrics["best_nelbo_nats"] for run in runs]
        assert values == sorted(values)
        for link in links(held, store.experiment_id).values():
            assert f"]({link})" in held[NOTE_TAG]
            assert f"/{store.experiment_id}/" in link


def test_two_sweeps_have_one_view_that_compares_them(
    desk: Desk, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """MLflow shows it if the tag is the same on both."""
    sync(desk, store)
    assert "[compare with " not in tags(store)[NOTE_TAG]
    sweep = Sweep(desk.space, desk.paths, desk.ledger)
    store.mirror().sync("other", sweep.changes(), sweep.views())
    store.mirror().sync("searched", [], sweep.views())  # the newest, and without candidates
    sync(desk, store)
    mine, other = (store.client.get_experiment_by_name(name) for name in ("tiny", "other"))
    link = compare_link([mine.experiment_id, other.experiment_id])
    assert f"[compare with other]({link})" in mine.tags[NOTE_TAG]
    assert not set(link) & set('[]"() ')  # which Markdown would take for its own
    assert mine.tags[SHARED + COMPARE] == other.tags[SHARED + COMPARE]
    view = state(mine.tags[SHARED + COMPARE])
    both = [mine.experiment_id, other.experiment_id]
    assert len(store.client.search_runs(both, view["searchFilter"])) == 4
    assert view["selectedColumns"][0] == "attributes.`Experiment Name`"

    for name in ("other", "searched"):  # beside tiny
        (desk.paths.root / "search_spaces" / f"{name}.yaml").write_text("{}\n")
    server = nullcontext(SimpleNamespace(wait=lambda: 0))
    monkeypatch.setattr(ui, "guarded", lambda *_: server)
    monkeypatch.setattr(ui.signal, "signal", lambda *_: None)  # which is the command's own
    ui.serve_ui(desk.paths.root, desk.machine, 5000)
    (line,) = (each for each in capsys.readouterr().err.splitlines() if " and " in each)
    names, _, address = line.strip().partition(": ")
    named = [store.client.get_experiment_by_name(name) for name in names.split(" and ")]
    assert {each.name for each in named} == {"tiny", "other"}
    assert (
        address == f"http://127.0.0.1:5000/{compare_link([each.experiment_id for each in named])}"
    )


def test_nothing_is_written_twice(
    desk: Desk, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync(desk, store)
    before = tags(store)
    from mlflow.tracking import MlflowClient

    def refuse(*_: object) -> None:
        raise AssertionError("it is there")

    monkeypatch.setattr(MlflowClient, "set_experiment_tag", refuse)
    sync(desk, store)
    assert tags(store) == before


def test_what_a_person_wrote_on_the_experiment_stays(desk: Desk, store: Store) -> None:
    sync(desk, store)
    links_alone = tags(store)[NOTE_TAG]
    store.client.set_experiment_tag(store.experiment_id, NOTE_TAG, "My *sweep*.\nTwo lines.")
    for _ in range(2):
        sync(desk, store)
        assert tags(store)[NOTE_TAG] == f"{links_alone}\n\nMy *sweep*.\nTwo lines."
    earlier = "[trials](#/x?viewStateShareKey=trials)\n\nMine."
    store.client.set_experiment_tag(store.experiment_id, NOTE_TAG, earlier)
    sync(desk, store)
    assert tags(store)[NOTE_TAG] == f"{links_alone}\n\nMine."


def test_the_search_that_was_worked_on_last_is_shown(desk: Desk) -> None:
    sweep = Sweep(desk.space, desk.paths, desk.ledger)
    sweep.changes()
    assert all(desk.study.id in view.runs for view in sweep.views())
    desk.ledger.open_study("tiny-forked", "tiny", "search", desk.study.spec)
    sweep.changes()
    assert all(desk.study.id in view.runs for view in sweep.views())
    lease = next_lease(desk.ledger, "tiny-forked", meta=META)
    assert lease
    sweep.changes()
    assert all("'tiny-forked'" in view.runs for view in sweep.views())


def test_charts_have_the_logarithm_and_leave_out_what_not_every_trial_has() -> None:
    searched: dict[str, dict[str, Any]] = {
        "lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "latent_dim": {"choices": [2, 6]},
        "momentum": {"low": 0.0, "high": 0.9, "when": {"optimizer": "sgd"}},
    }
    view = state(views_of("tiny-1", searched, 0)[0].tag()[1])
    charts = view["compareRunCharts"]
    (parallel,) = (chart for chart in charts if chart["type"] == "PARALLEL")
    assert parallel["selectedParams"] == ["log10_lr", "latent_dim"]
    scattered = [chart["xaxis"]["key"] for chart in charts if chart["type"] == "SCATTER"]
    assert scattered == ["log10_lr", "momentum"]
    assert {"params.`lr`", "params.`momentum`"} <= set(view["selectedColumns"])


def test_every_run_says_whose_it_is_of_what_and_from_where(desk: Desk, store: Store) -> None:
    sync(desk, store)
    runs = store.client.search_runs([store.experiment_id])
    assert len(runs) == 5
    for run in runs:
        assert run.data.tags["mlflow.user"] == "ada"
        assert run.data.tags["mlflow.source.name"] == "search_spaces/tiny.yaml"
        assert run.data.tags["mlflow.source.type"] == "LOCAL"
        assert run.data.tags["mlflow.source.git.commit"] == "c0ffee"
        (data,) = run.inputs.dataset_inputs
        assert data.dataset.name == "digits"
        if run.data.tags["kind"] != "study":
            lr = float(run.data.params["lr"])
            assert float(run.data.params["log10_lr"]) == pytest.approx(math.log10(lr), abs=1e-4)
            bits = run.data.metrics["best_nelbo_nats"] / math.log(2) / 64
            assert run.data.metrics["bits_per_dim"] == pytest.approx(bits)


def test_runs_of_an_earlier_version_are_no_lie_and_are_completed(
    desk: Desk, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = Sweep(desk.space, desk.paths, desk.ledger)
    with monkeypatch.context() as earlier:
        earlier.setattr(mlflow_columns, "LOG10", {})
        earlier.setattr("pipeline.sync.mlflow_columns.origin", lambda *_: {})
        store.mirror().sync("tiny", sweep.changes())
    sweep.forget()
    runs = sweep.changes()
    assert differences(store.uri, "tiny", runs, lambda run: None) == (set(), {})
    sync(desk, store)
    (trial, *_) = store.client.search_runs([store.experiment_id], "tags.kind = 'trial'")
    assert "log10_lr" in trial.data.params
    assert differences(store.uri, "tiny", runs, lambda run: None) == (set(), {})


def test_a_host_without_the_data_takes_no_figure_away(desk: Desk, store: Store) -> None:
    sync(desk, store)
    for stage in STAGES:
        shutil.rmtree(desk.paths.stage(stage))
    sync(desk, store)
    for run in store.client.search_runs([store.experiment_id], "tags.kind = 'trial'"):
        assert math.isfinite(run.data.metrics["bits_per_dim"])
