"""`keep`, and searches that begin with what it has written."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tarfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from crews import Sweep, children, eventually, make_sweep, no_one_left, sweep
from ledgers import open_ledger
from studies import trial, whole
from test_pipeline import run
from worked import Worked

from pipeline.commands.sweep import _trials
from pipeline.commands.sweep_standing import Standing, standing
from pipeline.paths import Paths
from pipeline.results.states import Kind
from pipeline.settings.machine import Machine, load_machine
from pipeline.settings.space import load_space
from pipeline.study.search.kept_table import read_table
from pipeline.study.storage.ledger import storage_url

TABLE = "search_spaces/tiny.trials.jsonl"


@pytest.fixture
def mine(worked: Worked, tmp_path: Path) -> Worked:
    return worked.copy(tmp_path / "clone")


def kept(mine: Worked, *more: str) -> str:
    code, out, err = mine.give("keep", "tiny", *more)
    assert (code, err) == (0, "")
    return out


def test_an_archive_holds_the_table(mine: Worked) -> None:
    kept(mine)
    mine.edit("search", "observations", TABLE)
    mine.done("archive", "tiny", "--to", "x.tar")
    with tarfile.open(mine.root / "x.tar") as tar:
        assert TABLE in tar.getnames()


class TestKeep:
    def test_it_writes_what_the_search_has_learned(self, mine: Worked) -> None:
        said = kept(mine)
        data = json.loads((mine.root / "runs/tiny/prepare/manifest.json").read_text())["sha256"]
        assert f"{TABLE}: 3 trials of data {data[:12]}, likelihood bernoulli: commit it" in said
        text = (mine.root / TABLE).read_text()
        trials = read_table(text, TABLE)
        study = json.loads((mine.root / "runs/tiny/search/study.json").read_text())[0]
        for each, record in zip(trials, study["trials"], strict=True):
            ours = {name: record[name] for name in ("parameters", "state", "result", "curve")}
            assert {name: getattr(each.line, name) for name in ours} == ours
        assert not {"seconds", "host", "ended_ms"} & set(json.loads(text.splitlines()[2]))
        kept(mine)
        assert (mine.root / TABLE).read_text() == text

    def test_one_of_its_studies(self, mine: Worked) -> None:
        study = json.loads((mine.root / "runs/tiny/search/study.json").read_text())[0]["study"]
        assert f"study {study}: 3 finished trials" in kept(mine, "--study", study)

    def test_those_that_are_alike(self, mine: Worked) -> None:
        """A study of another budget is no part of the table unless it is named alone."""
        paths = Paths(mine.root, "tiny")
        ledger = open_ledger(storage_url(Machine(), paths))
        ((study, spec),) = ledger.studies("tiny", Kind.SEARCH).items()
        longer = {**spec, "search": {**spec["search"], "epochs": 13}}
        ledger.open_study("tiny-longer", "tiny", Kind.SEARCH, longer)
        wider = {**longer, "searched": {}}
        ledger.open_study("tiny-wider", "tiny", Kind.SEARCH, wider, begins_with=[
            replace(part, study="tiny-wider") for part in ledger.parts(study)])  # fmt: skip
        said = kept(mine)
        assert f"study {study}: left out, as it has other epochs than tiny-wider" in said
        assert "study tiny-longer: 0 finished trials\nstudy tiny-wider: 3 finished trials" in said
        both = mine.refused("keep", "tiny", "--study", study, "--study", "tiny-wider")
        assert f"--study: {study} has other epochs than tiny-wider: keep them one at a time" in both
        said = kept(mine, "--study", study)
        assert "was another table: a search that names it begins anew" in said

    def test_two_that_contradict_each_other(self, mine: Worked) -> None:
        """The same training in two studies: what they differ in is said."""
        ledger = open_ledger(storage_url(Machine(), Paths(mine.root, "tiny")))
        ((study, spec),) = ledger.studies("tiny", Kind.SEARCH).items()
        parts = ledger.parts(study)
        assert "again" not in kept(mine)
        curve = [dict(epoch) for epoch in parts[1].curve]
        curve[4]["train_recon_nats"] += 1.0
        ledger.open_study("tiny-wider", "tiny", Kind.SEARCH, {**spec, "searched": {}}, begins_with=[
            replace(part, study="tiny-wider", curve=curve if part.number == 1 else part.curve)
            for part in parts])  # fmt: skip
        said = kept(mine).splitlines()
        line = f"trial 1 of tiny-wider is trial 1 of {study} again, but differs in epoch 5: "
        assert [each for each in said if " again, but " in each and each.startswith(line)]
        assert len([each for each in said if " again, but " in each]) == 1

    @pytest.mark.parametrize(
        ("command", "said"),
        [
            (["keep", "tiny", "--study", "tiny-0"], "--study: must be one of tiny-"),
            (["keep", "nothing"], "the ledger has no search of it: run"),
            (["keep", "../x"], "must be the name of a sweep"),
        ],
    )
    def test_what_is_not_there(self, mine: Worked, command: list[str], said: str) -> None:
        assert said in mine.refused(*command)
        assert not (mine.root / TABLE).exists()


class TestBroken:
    @pytest.fixture
    def naming(self, mine: Worked) -> Worked:
        kept(mine)
        mine.edit("search", "observations", TABLE)
        return mine

    @pytest.mark.parametrize("command", ["check", "search"])
    def test_a_table_that_was_edited(self, naming: Worked, command: str) -> None:
        file = naming.root / TABLE
        file.write_text(file.read_text().replace('"state": "complete"', '"state": "paused"', 1))
        code, _, err = naming.give(command, "tiny")
        assert code == 2
        assert err.count("\n") == 1
        assert f"{TABLE}: was edited" in err

    def test_a_table_that_is_not_there(self, naming: Worked) -> None:
        (naming.root / TABLE).unlink()
        assert f"search.observations: {TABLE}: there is no such file" in naming.refused(
            "search", "tiny"
        )

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            (7, "search.observations: must be the name of a table"),
            ("/etc/hosts", "must be a file in the checkout"),
            ({"file": TABLE, "sha256": "0" * 64}, "must have the SHA-256 000000000000, but has"),
        ],
    )
    def test_a_wrong_name(self, naming: Worked, value: Any, said: str) -> None:
        naming.edit("search", "observations", value)
        assert said in naming.refused("search", "tiny")

    def test_what_cannot_be_informed_is_refused_with_the_remedy(self, naming: Worked) -> None:
        naming.edit("search", "epochs", 11)
        naming.edit("search", "sampler", "random")
        code, _, said = naming.give("search", "tiny")
        assert (code, said.count("\n")) == (2, 1)
        assert "trials of other epochs, which do not count, and sampler random cannot be" in said
        assert "write a table without them" in said

    def test_a_night_adds_to_what_was_kept(self, naming: Worked) -> None:
        paths = Paths(naming.root, "tiny")
        before = standing(load_machine(naming.root), paths)
        assert _trials(load_space(naming.root, "tiny"), before, paths, 8) == 11
        naming.edit("search", "epochs", 11)  # then they inform alone
        assert _trials(load_space(naming.root, "tiny"), before, paths, 8) == 8

    def test_a_night_has_not_tried_what_was_kept(self) -> None:
        meta = {"kept": {"study": "old", "number": 0, "seed": 1}}
        parts = [whole(trial(0, 5.0, meta=meta)), whole(trial(1, 5.0), number=1)]
        after = Standing(None, None, {("x", p.number): replace(p, study="x") for p in parts},
                         frozenset({"x"}))  # fmt: skip
        assert after.tried(Standing(None, None, {}, frozenset()))["trials"] == 1

    def test_check_says_how_many_count(self, naming: Worked) -> None:
        code, out, _ = naming.give("check", "tiny")
        assert code == 0
        assert "kept       3 of 3 kept trials count" in out
        naming.edit("parameters", "latent_dim", 2)
        assert "for latent_dim" in naming.give("check", "tiny")[1]
        naming.edit("search", "epochs", 11)
        said = naming.give("check", "tiny")[1]
        assert "0 of 3 kept trials count (not 3 for epochs); " in said
        assert " of 3 inform it" in said


def mlflow_run(paths: Paths, kept: str) -> str:
    """The MLflow run of a kept trial."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow warns of itself when it is imported
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{paths.mlflow_db}")
        experiment = client.get_experiment_by_name("tiny")
        assert experiment
        (run,) = client.search_runs([experiment.experiment_id], f"tags.kept LIKE '{kept}'")
    return str(run.info.run_id)


@pytest.mark.slow
def test_all_that_was_asked_for_is_kept(mine: Worked) -> None:
    """Nothing is trained, and everything downstream has what it needs."""
    kept(mine)
    mine.edit("search", "observations", TABLE)
    code, _, err = mine.give("search", "tiny")
    assert code == 0, err
    assert "3 of 3 kept trials count" in err
    assert "whose trials are not comparable: observations: None → " in err
    trials = pd.read_csv(mine.root / "runs/tiny/search/trials.csv")
    assert [name.rpartition("/")[2] for name in trials["kept"]] == ["0", "1", "2"]
    best = json.loads((mine.root / "runs/tiny/search/best.json").read_text())
    assert best["kept"] == {"trials": 3, "epochs": 36}
    assert "kept: 3 of them" in mine.give("status", "tiny")[1]
    for stage in ("retrain", "evaluate", "render"):
        mine.done(stage, "tiny")
    assert (
        "3 were kept of earlier searches"
        in (mine.root / "runs/tiny/render/report.html").read_text()
    )
    (mine.root / "machine.yaml").write_text("workers: 1\ndevice: cpu\n")
    Paths(mine.root, "tiny").mlflow_db.unlink()  # which is that of another folder
    mine.done("sync", "tiny")
    code, out, err = mine.give("verify", "tiny")
    assert code == 0, out + err
    assert "identical in all 12 epochs" in mine.give("reproduce", "tiny", "1")[1]

    seed = read_table((mine.root / TABLE).read_text(), TABLE)[2].line.seed
    code, out, err = mine.give("where", mlflow_run(Paths(mine.root, "tiny"), "%/2"))
    assert code == 0, err
    assert f", this run {seed}\n" in out
    assert "/2, as which it was trained and then kept" in out

    study = mine.root / "runs/tiny/search/study.json"
    study.write_text(study.read_text().replace('"number": 0, "seed": ', '"number": 0, "seed": 1'))
    code, out, _ = mine.give("verify", "tiny", "--no-mlflow")
    assert code == 2
    assert "search/study.json: trial 0: kept is not that of the kept trial" in out


def test_trials_of_another_budget_are_tried_first(mine: Worked) -> None:
    """They count for nothing, but the best of them is the first setting after the centre."""
    kept(mine)
    mine.edit("search", "observations", TABLE)
    mine.edit("search", "epochs", 6)
    code, _, err = mine.give("search", "tiny")
    assert code == 0, err
    assert "0 of 3 kept trials count (not 3 for epochs); 3 of 3 inform it\n" in err
    best = min(
        (each.line for each in read_table((mine.root / TABLE).read_text(), TABLE)),
        key=lambda line: (line.result or {})["nelbo_nats"],
    )
    study = mine.root / "runs/tiny/search/study.json"
    (made,) = json.loads(study.read_text())
    assert made["trials"][1]["parameters"] == best.parameters
    assert not any("kept" in part for part in made["trials"])
    for stage in ("retrain", "evaluate", "render"):
        mine.done(stage, "tiny")
    code, out, err = mine.give("verify", "tiny", "--no-mlflow")
    assert code == 0, out + err
    lr = json.dumps({"lr": best.parameters["lr"]})[1:-1]
    assert lr in study.read_text()
    study.write_text(study.read_text().replace(lr, '"lr": 0.00123'))
    assert "was not proposed, but" in mine.give("verify", "tiny", "--no-mlflow")[1]


# The bar: 24 trials, a range narrowed so that 16 remain, 36 asked for: 20 are trained.
RAW = sweep(
    parameters={"patience": None, "optimizer": "adam", "momentum": 0.9},
    search={"trials": 24, "epochs": 4, "rungs": [1, 2, 4], "parallelism": 8},
)
RAW["parameters"]["lr"] = {"low": 1e-3, "high": 1e-2, "log": True}


def finish(made: Sweep, workers: int, kills: int = 0) -> dict[str, bytes]:
    """Searches to the end; so often everything is killed once some part has come further."""
    for _ in range(kills):
        with no_one_left(made.start("search", workers)) as command:
            seen = _progress(made)
            eventually(lambda: _progress(made) > seen or command.poll() is not None, "it works")  # noqa: B023
            for pid in (command.pid, *children(command.pid)):
                os.kill(pid, signal.SIGKILL)
            command.wait()
    with no_one_left(made.start("search", workers)) as command:
        assert command.wait() == 0, made.errors
    return made.outputs("search")


def _progress(made: Sweep) -> int:
    ledger = made.ledger
    parts = [p for study in ledger.studies("tiny", "search") for p in ledger.parts(study)]
    return sum(len(part.curve) for part in parts)


@pytest.mark.slow
def test_only_what_is_missing_is_trained_wherever_and_however(tmp_path: Path) -> None:
    first = make_sweep(tmp_path / "first", RAW)
    finish(first, 2)
    done = run(first.root, "python", "-m", "pipeline", "keep", "tiny")
    assert done.returncode == 0, done.stderr
    values = sorted(trial.parameters["lr"] for trial in first.trials() if trial.parameters)
    low = (values[7] + values[8]) / 2
    narrow = sweep(**{name: RAW[name] for name in ("parameters", "search")})
    narrow["parameters"] |= {"lr": {**RAW["parameters"]["lr"], "low": low}}
    narrow["search"] |= {"trials": 36, "observations": TABLE}
    found = []
    for number, (workers, kills) in enumerate([(2, 0), (1, 0), (8, 4)]):
        made = first if number == 0 else make_sweep(tmp_path / f"clone-{number}", narrow)
        (made.root / "search_spaces" / "tiny.yaml").write_text(yaml.safe_dump(narrow))
        if made is not first:
            shutil.copy(first.root / TABLE, made.root / TABLE)
        found.append(finish(made, workers, kills))
    assert found[0] == found[1] == found[2]
    (study,) = json.loads(found[0]["search/study.json"])
    begun = [part for part in study["trials"] if part["since"] == 0]
    assert len(begun) == 36
    assert sum("kept" not in part for part in begun) == 20
    assert "16 of 24 kept trials count (not 8 for lr)" in first.errors
    done = run(first.root, "python", "-m", "pipeline", "verify", "tiny")
    assert "search/" not in done.stdout.replace("search/study.json: spec", ""), done.stdout
