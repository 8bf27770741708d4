"""An audit accepts every honest sweep and finds every forgery."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from audits import NAME, Forger, Site, sweep
from once import once

from pipeline.commands.verify import verify
from pipeline.stages import render

ROOT = Path(__file__).parents[2]
ONE = {
    "lr": {"low": 4e-3, "high": 0.2, "log": True},
    "hidden": [32],
    "latent_dim": 4,
    "batch_size": 16,
}
GRID = {"lr": {"choices": [0.01, 0.02, 0.1]}, "hidden": {"choices": [[32], [16]]}, "batch_size": 16}
LATE = {**sweep()["parameters"], "kl_warmup_epochs": 3, "restore_best": False}
PLATEAU = {**ONE, "schedule": "plateau", "plateau_patience": 1}
CYCLE = {**ONE, "schedule": "one_cycle", "averaging": 9, "min_delta": 0.01, "patience": 3}
DIVERGING = {**ONE, "lr": {"low": 3.0, "high": 10.0}}
FALLBACK = {"fallback": {"lr": 0.02}, "trials": 3, "epochs": 2, "rungs": [1, 2]}
TWO = {"objectives": ["kl_nats", "recon_nats"], "pruner": "none", "rungs": None}
HONEST: dict[str, dict[str, dict[str, Any]]] = {
    "tpe-rungs": {},
    "tpe-median": {"search": {"rungs": None, "pruner": "median", "min_trials": 2}},
    "random-percentile": {"search": {"sampler": "random", "rungs": None, "pruner": "percentile"}},
    "gp": {"search": {"sampler": "gp", "rungs": None, "pruner": "none", "random_share": 0.3}},
    "thirds": {"search": {"reduction_factor": 3, "random_share": 0.5}},
    "cmaes": {"search": {"sampler": "cmaes", "rungs": None, "pruner": "none"}},
    "grid": {
        "parameters": GRID,
        "search": {"sampler": "grid", "rungs": None, "pruner": "none", "trials": 6},
    },
    "constrained": {"search": {"constraints": {"weights": 3000}, "enqueue": [{"lr": 0.03}]}},
    "stopped": {"search": {"trials": 30, "stop": {"gain": 3.0, "patience": 4}}},
    "total-epochs": {"search": {"total_epochs": 20}},
    "two-objectives": {"search": TWO},
    "kl-warm-up": {"parameters": LATE},
    "plateau": {"parameters": PLATEAU},
    "one-cycle": {"parameters": CYCLE},
    "all-fail": {"parameters": DIVERGING, "search": FALLBACK},
}
TAME = sweep() | {"parameters": {**sweep()["parameters"], "lr": {"low": 4e-3, "high": 0.02}}}
pytestmark = pytest.mark.slow


def made(root: Path, raw: dict[str, Any]) -> Site:
    """A sweep, searched."""
    site = Site(root)
    site.write(raw)
    site.search()
    return site


def found(site: Site, **options: Any) -> list[str]:
    return verify(site.root, site.machine, NAME, **options).findings


@pytest.mark.parametrize("changes", HONEST.values(), ids=HONEST)
def test_an_honest_sweep_is_accepted(changes: dict[str, Any], tmp_path: Path) -> None:
    raw = sweep(**{k: v for k, v in changes.items() if k != "parameters"})
    site = made(tmp_path, raw | {"parameters": changes.get("parameters", raw["parameters"])})
    assert found(site) == []
    site.retrain()
    assert found(site) == []


def test_an_extended_search_and_one_without_anything_to_search_are_accepted(
    tmp_path: Path,
) -> None:
    site = made(tmp_path / "extended", sweep(search={"trials": 4}))
    assert found(site) == []
    site.write(sweep(search={"trials": 6}))
    assert any("search.trials: 4 → 6" in finding for finding in found(site))
    site.search()
    assert found(site) == []
    single = made(tmp_path / "single", sweep() | {"parameters": {**ONE, "lr": 0.02}})
    single.retrain()
    assert found(single) == []


def command(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    known = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *words],
        cwd=folder,
        env=known,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all five stages have run, MLflow included."""
    folder = tmp_path_factory.mktemp("finished") / "clone"
    shutil.copytree(once(request, "audited", run_through), folder)
    return folder


def run_through(folder: Path) -> None:
    site = Site(folder)
    site.write(TAME)
    (folder / "machine.yaml").write_text("workers: 2\ndevice: cpu\n")
    done = command(folder, "run", NAME)
    assert done.returncode == 0, done.stderr


def copy_of(finished: Path, folder: Path, *, ledger: bool) -> Site:
    """The sweep on another machine: its runs and its space, and the ledger if it is shared."""
    shutil.copytree(finished / "search_spaces", folder / "search_spaces")
    shutil.copytree(finished / "runs" / NAME, folder / "runs" / NAME)
    if ledger:
        shutil.copytree(finished / "runs" / "state", folder / "runs" / "state")
        (folder / "machine.yaml").write_text("workers: 1\ndevice: cpu\n")
    return Site(folder)


def test_the_command_accepts_it_here_and_elsewhere_and_trains_and_measures_again(
    finished: Path, tmp_path: Path
) -> None:
    done = command(finished, "verify", NAME, "--train", "2", "--measure")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"verify {NAME}: all follows: digests and settings, data, 8 trials, 4 runs of 2 candidates,"
        " test figures, report, ledger, MLflow, 2 trials trained again, the weights, measured"
        " again\n"
    )
    elsewhere = copy_of(finished, tmp_path / "elsewhere", ledger=False)
    before = sorted(elsewhere.root.rglob("*"))
    done = command(elsewhere.root, "verify", NAME)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(elsewhere.root.rglob("*")) == before
    assert "recomputed" in (finished / "runs" / NAME / "render" / "report.html").read_text()


Trials = list[dict[str, Any]]
Forgery = Callable[[Forger, random.Random], None]


def some(trials: Trials, draw: random.Random, state: str = "complete") -> dict[str, Any]:
    return draw.choice([trial for trial in trials if trial["state"] == state])


def of_trials(change: Callable[[Trials, random.Random], Any]) -> Forgery:
    return lambda forger, draw: forger.trials(lambda trials: change(trials, draw))


def of(name: str, change: Callable[[Any], Any]) -> Forgery:
    return lambda forger, _: forger.json(name, change)


def swap(mapping: Any, key: Any, value: Any) -> None:
    assert mapping[key] != value
    mapping[key] = value


def lower(mapping: Any, *keys: str | int, by: float = 1.0) -> None:
    for key in keys:
        mapping[key] -= by


def sum_of_an_epoch(trials: Trials, draw: random.Random) -> None:
    lower(draw.choice(some(trials, draw)["curve"]), "nelbo_nats")


def better_result(trials: Trials, draw: random.Random) -> None:
    lower(some(trials, draw)["result"], "nelbo_nats", "recon_nats")


def renumbered(trials: Trials, draw: random.Random) -> None:
    one, other = sorted(draw.sample(range(len(trials)), 2))
    trials[one], trials[other] = trials[other], trials[one]
    trials[one]["number"], trials[other]["number"] = one, other


def unpaused(trials: Trials, draw: random.Random) -> None:
    some(trials, draw, "paused")["state"] = "complete"


def pruned(trials: Trials, draw: random.Random) -> None:
    some(trials, draw, "paused")["state"] = "pruned"


def paused_earlier(trials: Trials, draw: random.Random) -> None:
    """An epoch less, and all else as it then is."""
    trial = some(trials, draw, "paused")
    del trial["curve"][1:]
    kept = trial["curve"][0]
    trial["result"] |= {"epochs": 1, "best_epoch": 1} | {
        key: kept[key] for key in ("nelbo_nats", "recon_nats", "kl_nats", "active_units")
    }


def without_one(trials: Trials, _: random.Random) -> None:
    """A promotion is gone, and all that came later has the number before."""
    gone = next(part["number"] for part in trials if part["since"])
    del trials[gone]
    for part in trials[gone:]:
        part["number"] -= 1


def promoted(trials: Trials, _: random.Random) -> None:
    """The last of those that went on was another trial."""
    last = [part for part in trials if part["since"]][-1]
    swap(last, "trial", (last["trial"] + 1) % 3)


def goes_on_elsewhere(trials: Trials, _: random.Random) -> None:
    """A continuation does not begin with what it goes on from."""
    last = [part for part in trials if part["since"]][-1]
    lower(last["curve"][0], "train_recon_nats", "train_nelbo_nats", by=0.5)


def failed(trials: Trials, draw: random.Random) -> None:
    trial = some(trials, draw)
    epoch = len(trial["curve"]) + 1
    reason = f"the training loss is not finite in epoch {epoch}"
    trial |= {"state": "failed", "result": None, "reason": reason}


def of_measured(change: Callable[[Any], Any]) -> Forgery:
    def forge(forger: Forger, _: random.Random) -> None:
        file = forger.paths.retrain / "measured.npy"
        np.save(file, change(np.load(file)))

    return forge


def less_noise(measured: Any) -> Any:
    """The same means, the images scattered less."""
    mean = measured.mean(axis=2, keepdims=True)
    return mean + (measured - mean) / 2


def other_winner(winner: dict[str, Any]) -> None:
    winner["candidate"] = 1 - winner["candidate"]


def other_weights(forger: Forger, _: random.Random) -> None:
    winner = json.loads((forger.paths.retrain / "winner.json").read_text())
    other = forger.paths.retrain / "seeds" / f"seed-{1 - winner['seed']}.safetensors"
    shutil.copy(other, forger.paths.retrain / "model.safetensors")


def a_run_less(forger: Forger, _: random.Random) -> None:
    forger.json("retrain/runs.json", lambda studies: studies[0]["trials"].pop())


def larger_models(studies: Any) -> None:
    for study in studies:
        for run in study["trials"]:
            run["result"]["weights"] *= 2


def interval(forger: Forger, _: random.Random) -> None:
    file = forger.paths.retrain / "candidates.csv"
    lines = file.read_text().splitlines()
    cells = lines[1].split(",")
    cells[3] = str(float(cells[3]) + 0.01)
    file.write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]) + "\n")


def better_test(metrics: Any) -> None:
    """Every sum of it is right."""
    lower(metrics, "nelbo_nats", "recon_nats", "excess_nats")
    metrics["bits_per_dim"] -= 1 / (64 * np.log(2))


def stated(forger: Forger, _: random.Random) -> None:
    metrics = json.loads((forger.paths.evaluate / "metrics.json").read_text())
    value = metrics["nelbo_nats"]
    forger.text("render/report.html", f"{value:.2f}", f"{value - 1:.2f}")


def other_figure(forger: Forger, _: random.Random) -> None:
    first, second = sorted(forger.paths.render.glob("*.png"))[:2]
    first.write_bytes(second.read_bytes())


def of_space(**sections: dict[str, Any]) -> Forgery:
    edited = {name: {**TAME[name], **keys} for name, keys in sections.items()}
    return lambda forger, _: Site(forger.paths.root).write(TAME | edited)


def other_seed(forger: Forger, _: random.Random) -> None:
    """In every file that names it."""
    for stage in ("search", "retrain"):
        forger.json(
            f"{stage}/record.json",
            lambda record: record["settings"].get("search", {}).update(seed=8),
        )
    forger.json("search/study.json", lambda s: s[0]["spec"]["search"].update(seed=8))
    Site(forger.paths.root).write(TAME | {"search": {**TAME["search"], "seed": 8}})


def other_split(forger: Forger, _: random.Random) -> None:
    """In the record and in the space."""
    changed = {**TAME["data"], "validation": {"fraction": 0.1, "seed": 5}}
    forger.json(
        "prepare/record.json",
        lambda record: record["settings"]["data"]["validation"].update(changed["validation"]),
    )
    Site(forger.paths.root).write(TAME | {"data": changed})


def too_little(trials: Trials, draw: random.Random) -> None:
    some(trials, draw)["result"]["mean_image_nelbo_nats"] = 1e6


def of_settings(stage: str, section: str, **keys: Any) -> Forgery:
    """In the stage's record and in the space."""

    def forge(forger: Forger, _: random.Random) -> None:
        forger.json(f"{stage}/record.json", lambda record: record["settings"][section].update(keys))
        Site(forger.paths.root).write(TAME | {section: {**TAME[section], **keys}})

    return forge


def other_floors(forger: Forger, _: random.Random) -> None:
    """And the test figures that are held against them."""

    def lower_excess(metrics: dict[str, Any]) -> None:
        for part in (metrics, metrics["first_epoch"], metrics["last_epoch"]):
            lower(part, "excess_nats")

    floors = "entropy_floor_nats"
    forger.json("prepare/manifest.json", lambda m: lower(m["bernoulli"][floors], "test", by=-1))
    forger.json("evaluate/metrics.json", lower_excess)
    forger.seal()
    site = Site(forger.paths.root)
    render.run(site.space, site.machine, site.paths)


def larger_trials(trials: Trials, _: random.Random) -> None:
    for trial in trials:
        if trial["result"]:
            trial["result"]["weights"] *= 2


def other_data(forger: Forger, _: random.Random) -> None:
    file = forger.paths.prepare / "test_images.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def no_figure(forger: Forger, _: random.Random) -> None:
    sorted(forger.paths.render.glob("*.png"))[0].unlink()


FORGERIES: dict[str, Forgery] = {
    "an epoch's sum": of_trials(sum_of_an_epoch),
    "a better result": of_trials(better_result),
    "the last trial dropped": of_trials(lambda trials, _: trials.pop()),
    "the first trial dropped": of_trials(lambda trials, _: trials.pop(0)),
    "a trial twice": of_trials(lambda t, draw: t.append({**draw.choice(t), "number": len(t)})),
    "two trials renumbered": of_trials(renumbered),
    "another rate": of_trials(lambda t, draw: swap(draw.choice(t)["parameters"], "lr", 0.05)),
    "a parameter that is not there": of_trials(
        lambda t, draw: draw.choice(t)["parameters"].update(weight_decay=0.1)
    ),
    "a paused trial completed": of_trials(unpaused),
    "a complete trial paused": of_trials(lambda t, draw: swap(some(t, draw), "state", "paused")),
    "a paused trial pruned": of_trials(pruned),
    "a part in between dropped": of_trials(without_one),
    "a trial paused too early": of_trials(paused_earlier),
    "another rung": of_trials(lambda t, draw: swap(some(t, draw, "paused"), "until", 5)),
    "another place": of_trials(lambda t, draw: lower(draw.choice(t[2:]), "starts")),
    "another cost": of_trials(lambda t, draw: lower(draw.choice(t), "cost")),
    "another one followed": of_trials(lambda t, draw: swap(t[-1], "follows", 0)),
    "another one promoted": of_trials(promoted),
    "a part of another trial": of_trials(goes_on_elsewhere),
    "a complete trial failed": of_trials(failed),
    "a reason without a failure": of_trials(lambda t, draw: swap(some(t, draw), "reason", "x")),
    "another best epoch": of_trials(lambda t, d: lower(some(t, d)["result"], "best_epoch", by=9)),
    "another rate in the curve": of_trials(lambda t, d: lower(some(t, d)["curve"][0], "lr", by=9)),
    "another KL": of_trials(lambda t, d: lower(some(t, d)["curve"][0], "kl_nats", "nelbo_nats")),
    "fewer weights": of_trials(lambda t, d: lower(some(t, d)["result"], "weights", by=9)),
    "another ranking": of("search/best.json", lambda best: best["ranking"].reverse()),
    "another count": of("search/best.json", lambda best: lower(best["trials"], "complete", by=1)),
    "another winner": of("retrain/winner.json", other_winner),
    "another sentence": of("retrain/winner.json", lambda w: swap(w, "sentence", "It is best.")),
    "another seed's weights": other_weights,
    "a run less": a_run_less,
    "a run that ends too soon": of(
        "retrain/runs.json", lambda studies: studies[1]["trials"][0]["curve"].pop()
    ),
    "another look of the race": of(
        "retrain/winner.json", lambda w: lower(w["race"][0]["standings"][1], "behind")
    ),
    "larger models": of("retrain/runs.json", larger_models),
    "a better run": of(
        "retrain/runs.json", lambda s: lower(s[0]["trials"][0]["result"], "nelbo_nats")
    ),
    "better images": of_measured(lambda measured: measured - 0.1),
    "less noise": of_measured(less_noise),
    "another interval": interval,
    "another model": of("retrain/config.json", lambda config: swap(config, "beta", 2.0)),
    "a better test NELBO": of("evaluate/metrics.json", lambda m: lower(m, "nelbo_nats")),
    "better test figures": of("evaluate/metrics.json", better_test),
    "a smaller error": of("evaluate/metrics.json", lambda m: lower(m, "mse_per_pixel", by=0.01)),
    "more samples": of("evaluate/metrics.json", lambda m: swap(m, "iw_samples", 500)),
    "another figure in the report": stated,
    "another picture": other_figure,
    "a picture less": no_figure,
    "another range": of_space(retrain={"top": 1}),
    "another budget": of_space(search={"trials": 9}),
    "another seed": other_seed,
    "another test image": other_data,
    "another split": other_split,
    "fewer images": of("prepare/manifest.json", lambda m: lower(m["counts"], "train", by=9)),
    "trained too little": of_trials(too_little),
    "other floors": other_floors,
    "another mean image": of(
        "prepare/manifest.json",
        lambda m: lower(m["bernoulli"]["mean_image_nelbo_nats"], "validation"),
    ),
    "another error of the mean image": of(
        "prepare/manifest.json", lambda m: lower(m["mean_image_mse_per_pixel"], "validation")
    ),
    "other counts of classes": of(
        "prepare/manifest.json", lambda m: lower(m["class_counts"]["train"], 3, by=1)
    ),
    "other names of classes": of("prepare/manifest.json", lambda m: m["classes"].reverse()),
    "other levels": of("prepare/manifest.json", lambda m: lower(m, "levels")),
    "another source": of(
        "prepare/manifest.json", lambda m: swap(m["source_sha256"], "digits", "0" * 64)
    ),
    "another headline": of("evaluate/headline.json", lambda h: lower(h, "kl_nats")),
    "more samples than were drawn": of_settings("evaluate", "evaluate", nelbo_samples=64),
    "a probe that was not made": of_settings("evaluate", "evaluate", probe=True),
    "foreign images that were not measured": of_settings("evaluate", "evaluate", anomaly=["mnist"]),
    "larger models in the search": of_trials(larger_trials),
    "an epoch's figure that is none": of_trials(
        lambda t, draw: some(t, draw)["curve"][0].update(accuracy=1.0)
    ),
    "a result's figure that is none": of_trials(
        lambda t, draw: some(t, draw)["result"].update(accuracy=1.0)
    ),
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
def test_a_forgery_is_found_elsewhere_though_every_digest_is_right(
    forge: Forgery, finished: Path, tmp_path: Path
) -> None:
    site = copy_of(finished, tmp_path / "copy", ledger=False)
    forger = Forger(site.paths)
    forge(forger, random.Random(7))
    forger.seal()
    assert found(site) != []


MEASURED, RUNS, STUDY = "retrain/measured.npy", "retrain/runs.json", "search/study.json"
FURTHER: dict[str, tuple[Forgery, str]] = {
    "every image twice": (of_measured(lambda m: np.repeat(m, 2, axis=2)), f"{MEASURED}: has "),
    "a further candidate": (
        of_measured(lambda m: np.concatenate([m, m[:1]])), f"{MEASURED}: holds what no run"
    ),
    "a further seed": (
        of_measured(lambda m: np.concatenate([m, m[:, :1]], axis=1)),
        f"{MEASURED}: holds what no run",
    ),
    "runs of another kind": (
        of(RUNS, lambda s: swap(s[0], "kind", "search")), "is said to be of kind search"
    ),
    "a search of another kind": (
        of(STUDY, lambda s: swap(s[0], "kind", "candidate")), "is said to be of kind candidate"
    ),
    "a note": (of(RUNS, lambda s: s[1].update(note="sound")), "note is nothing that is recorded"),
    "a note on a trial": (
        of(STUDY, lambda s: s[0]["trials"][1].update(note="sound")), "note is nothing that is"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("forge", "line"), FURTHER.values(), ids=FURTHER)
def test_what_is_beside_the_record_is_found(
    forge: Forgery, line: str, finished: Path, tmp_path: Path
) -> None:
    """Whatever else of it is found: intervals are narrower if every image is there twice."""
    site = copy_of(finished, tmp_path / "copy", ledger=False)
    forger = Forger(site.paths)
    forge(forger, random.Random(7))
    forger.seal()
    assert any(line in each for each in found(site))


def test_a_failure_that_was_none_is_found_by_training_again(finished: Path, tmp_path: Path) -> None:
    """With every epoch as it was: what is forged is the end."""
    site = copy_of(finished, tmp_path / "copy", ledger=False)
    forger = Forger(site.paths)

    def fail(trials: Trials) -> None:
        last = [trial for trial in trials if trial["state"] == "complete"][-1]
        last |= {"state": "failed", "result": None, "reason": "RuntimeError: a bug in this model"}

    forger.trials(fail)
    forger.seal()
    assert any("differs in its end: it goes on after" in line for line in found(site, train=12))


def rival_and_winner(site: Site) -> tuple[int, int]:
    winner = json.loads((site.paths.retrain / "winner.json").read_text())["candidate"]
    return 1 - winner, winner


def test_a_rival_that_is_said_to_have_failed_is_found_by_training_again(
    finished: Path, tmp_path: Path
) -> None:
    site = copy_of(finished, tmp_path / "copy", ledger=False)
    forger, (rival, _) = Forger(site.paths), rival_and_winner(site)

    def fail(studies: list[dict[str, Any]]) -> None:
        studies[rival]["trials"][0] |= {"state": "failed", "result": None, "reason": "Error: a bug"}

    forger.json("retrain/runs.json", fail)
    forger.seal()
    assert any(
        line.startswith("retrain/runs.json: trial 0 differs in its end: it ")
        for line in found(site, train=12)
    )


def test_images_that_are_shuffled_are_found_by_measuring_where_weights_are(
    finished: Path, tmp_path: Path
) -> None:
    """Their mean is as it was; the intervals depend on which image has which value."""
    site = copy_of(finished, tmp_path / "copy", ledger=True)
    rival, winner = rival_and_winner(site)
    forger, file = Forger(site.paths), site.paths.retrain / "measured.npy"
    assert found(site, measure=True, mlflow=False) == []
    for candidate in (rival, winner):
        measured = np.load(file)
        before = measured.copy()
        measured[candidate, 0] = measured[candidate, 0, ::-1]
        np.save(file, measured)
        forger.seal()
        line = f"retrain/measured.npy: candidate {candidate}, seed 0: is not what its weights give"
        assert line in found(site, measure=True, mlflow=False)
        np.save(file, before)
    shutil.rmtree(site.paths.state)
    forger.seal()
    assert found(site, measure=True) == []  # nobody has the rival's weights: the winner's are right


def test_what_was_proposed_elsewhere_is_said_to_be(finished: Path, tmp_path: Path) -> None:
    """On a machine that proposes otherwise nobody can tell: neither a forgery nor accepted."""

    def elsewhere(trials: Trials) -> None:
        for trial in trials:
            trial["arithmetic"]["proposals"] = "numpy of another kind"
        swap(trials[-1]["parameters"], "lr", 0.0123)

    site = copy_of(finished, tmp_path / "copy", ledger=False)
    forger = Forger(site.paths)
    forger.trials(elsewhere)
    forger.seal()
    said = [line for line in found(site) if "was not proposed, but" in line]
    assert len(said) == 1
    assert "which computes otherwise (proposals: numpy of another kind → optuna" in said[0]


def test_a_byte_that_means_nothing_is_found_by_its_digest(finished: Path, tmp_path: Path) -> None:
    site = copy_of(finished, tmp_path / "copy", ledger=False)
    file = site.paths.search / "best.json"
    file.write_text(file.read_text() + "\n")
    (line,) = found(site)
    assert line.startswith("search/best.json: is not what its stage wrote")


def a_better_epoch(trials: Trials) -> None:
    """One that decides nothing, with every sum of it right."""
    trial = next(t["trial"] for t in trials if t["state"] == "complete")
    for part in trials:
        if part["trial"] == trial:
            epoch = part["curve"][0]
            epoch["recon_nats"] += 0.001
            epoch["nelbo_nats"] = epoch["recon_nats"] + epoch["kl_nats"]


def test_a_curve_that_follows_is_found_by_the_ledger_and_by_training_again(
    finished: Path, tmp_path: Path
) -> None:
    site = copy_of(finished, tmp_path / "copy", ledger=True)
    forger = Forger(site.paths)
    forger.trials(a_better_epoch)
    forger.seal()
    assert any("is not the ledger's" in line for line in found(site, mlflow=False))
    shutil.rmtree(site.paths.state)
    assert found(site) == []
    assert any("differs first in epoch 1" in line for line in found(site, train=12))


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE metrics SET value = value - 1 WHERE key = 'recon_nats' AND step = 1", "metric"),
        ("UPDATE latest_metrics SET value = value", ""),
        ("UPDATE params SET value = '0.5' WHERE key = 'lr'", "param lr"),
        ("UPDATE tags SET value = 'complete' WHERE key = 'state'", "tag state"),
        ("UPDATE runs SET status = 'FAILED'", "status"),
    ],
)
def test_mlflow_that_states_something_else_is_found(
    statement: str, words: str, finished: Path, tmp_path: Path
) -> None:
    site = copy_of(finished, tmp_path / "copy", ledger=True)
    with sqlite3.connect(site.paths.mlflow_db) as store:
        store.execute(statement)
    store.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow warns of itself when it is imported
        lines = found(site)
    assert all(line.startswith("MLflow: ") and words in line for line in lines), lines
    assert bool(lines) == bool(words)


def test_a_finding_ends_the_command_with_exit_code_2(finished: Path, tmp_path: Path) -> None:
    site = copy_of(finished, tmp_path / "copy", ledger=False)
    edited = yaml.safe_load((site.root / "search_spaces/tiny.yaml").read_text())
    edited["evaluate"]["iw_samples"] = 3
    (site.root / "search_spaces/tiny.yaml").write_text(yaml.safe_dump(edited))
    done = command(site.root, "verify", NAME)
    assert done.returncode == 2
    assert done.stdout == (
        "search_spaces/tiny.yaml: evaluate was made with another evaluate.iw_samples: 2 → 3\n"
    )
    assert done.stderr == (
        "error: verify tiny: 1 finding: run the stage of the first again, or restore its files;"
        " MLflow is brought up to date by `sync`\n"
    )
