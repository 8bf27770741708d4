"""Searches that are killed at every step, or overtake each other, give the bytes of a quiet one."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
from crews import Killed, Sweep, make_sweep

from pipeline.study.storage.ahead import Turn
from pipeline.study.storage.ledger import Ledger
from pipeline.study.storage.workers import Presence
from pipeline.vae import checkpoint
from pipeline.vae.training import Leaves, Training
from pipeline.work import checkpoints

CANDIDATES = ({"lr": 0.02}, {"lr": 0.04, "optimizer": "sgd", "momentum": 0.9})


class Killer:
    """Kills the worker at the n-th of the steps that leave a trace, before it or after it."""

    STEPS = (
        (Ledger, "claim"),
        (Ledger, "begin"),
        (Turn, "keep"),
        (Turn, "leave"),
        (Ledger, "report"),
        (Ledger, "finish"),
        (Training, "run_epoch"),
        (checkpoint, "save_training"),
        (checkpoint, "save_weights"),
        (Path, "unlink"),
    )

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.left = 0  # steps until the next death; 0: none
        self.deaths: set[tuple[str, str]] = set()
        for owner, name in self.STEPS:
            monkeypatch.setattr(owner, name, self._deadly(getattr(owner, name), name))

    def _deadly(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        @wraps(function)
        def step(*arguments: Any, **options: Any) -> Any:
            self._count(name, "before")
            result = function(*arguments, **options)
            self._count(name, "after")
            return result

        return step

    def _count(self, name: str, when: str) -> None:
        self.left -= 1
        if self.left == 0:
            self.deaths.add((name, when))
            raise Killed


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """The sweep's search and candidates by one worker to whom nothing happens."""
    made = make_sweep(tmp_path_factory.mktemp("undisturbed") / "clone")
    assert made.worker().work() == 0
    assert made.worker(None, *CANDIDATES).work() == 0
    return made


def weights(made: Sweep) -> dict[str, bytes]:
    """All files of weights that are left of the candidates, checkpoints included."""
    folder = made.paths.state / "studies"
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for study in made.candidates(*CANDIDATES)
        for path in sorted((folder / study.id).rglob("*.safetensors"))
    }


def test_the_sweep_has_trials_of_all_kinds(undisturbed: Sweep) -> None:
    trials = undisturbed.trials()
    assert {trial.state for trial in trials} == {"complete", "paused", "failed"}
    results = [trial.result for trial in trials if trial.result]
    assert any(result["best_epoch"] < result["epochs"] for result in results)
    assert {len(trial.curve) for trial in trials} > {0, 3}
    assert len(weights(undisturbed)) == 3 * 2 * 2


def test_a_trial_is_worth_the_nelbo_of_the_epoch_whose_weights_it_keeps(
    undisturbed: Sweep,
) -> None:
    """Which is the best one by reconstruction here, as the sweep's monitor says."""
    for trial in undisturbed.trials():
        if trial.result:
            best = min(trial.curve, key=lambda record: record["recon_nats"])
            kept = {name: best[name] for name in ("nelbo_nats", "recon_nats", "kl_nats")}
            assert trial.result.items() >= kept.items()
            assert trial.result["best_epoch"] == best["epoch"]


@pytest.mark.parametrize("saving", [0, 1e9], ids=["all-epochs-saved", "first-epoch-saved"])
def test_a_search_killed_between_any_two_steps_gives_the_same_bytes(
    saving: float, tmp_path: Path, undisturbed: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "TRAINING_PER_SAVING", saving)
    killer = Killer(monkeypatch)
    for seed in range(12):
        made = make_sweep(tmp_path / str(seed))
        assert work_and_die(made, killer, random.Random(seed)) > 10
        assert made.tables() == undisturbed.tables()
    in_a_search = {name for _, name in Killer.STEPS} - {"save_weights"}
    assert killer.deaths >= {(name, when) for name in in_a_search for when in ("before", "after")}


def test_candidates_killed_between_any_two_steps_give_the_same_bytes(
    tmp_path: Path, undisturbed: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "TRAINING_PER_SAVING", 0)
    killer = Killer(monkeypatch)
    for seed in range(3):
        made = make_sweep(tmp_path / str(seed))
        work_and_die(made, killer, random.Random(seed), *CANDIDATES)
        assert weights(made).items() >= weights(undisturbed).items()
        for study in made.candidates(*CANDIDATES):
            assert made.tables(study) == undisturbed.tables(study)
    assert killer.deaths >= {("save_weights", "before"), ("save_weights", "after")}


def work_and_die(made: Sweep, killer: Killer, rng: random.Random, *settings: dict[str, Any]) -> int:
    """Works to the end by workers that die, as a crew replaces them; how many have died."""
    ledger, deaths = made.ledger, 0
    while True:
        worker = made.worker(ledger, *settings)
        killer.left = rng.randint(1, 30)
        try:
            assert worker.work() == 0
        except Killed:
            deaths += 1
            assert deaths < 1000, "it makes no progress"
            ledger.release(worker.who.owner, blameless=True)
        else:
            return deaths
        finally:
            killer.left = 0


@pytest.mark.parametrize("seed", range(3))
def test_workers_that_overtake_each_other_give_the_same_bytes(
    seed: int, tiny: Sweep, undisturbed: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Now and then, in the midst of a trial, another worker does all of the next one."""
    ledger = tiny.ledger
    one, rng = tiny.worker(ledger), random.Random(seed)
    other = tiny.worker(ledger, presence=Presence("elsewhere/1/2"))
    run_epoch, ahead = Training.run_epoch, []

    def overtaken(training: Training, *leaves: Leaves) -> dict[str, Any] | None:
        if rng.random() < 0.6 and (claimed := other.claims.next()):
            ahead.append(claimed[1].number)
            other.run(*claimed)
        return run_epoch(training, *leaves)

    monkeypatch.setattr(Training, "run_epoch", overtaken)
    assert one.work() == 0
    assert tiny.tables() == undisturbed.tables()
    assert ahead
