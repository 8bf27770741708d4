"""Proposals depend on the space, the seed, the number and the finished trials: nothing else."""

from __future__ import annotations

import shutil
import sqlite3
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from searches import STUDY, Outcome, Parameters, bowl, complete, proposer, search, toy_space

from pipeline.config import Space
from pipeline.hyperparameters import Choices, Range, grid
from pipeline.seeds import digest
from pipeline.study import propose
from pipeline.study.ledger import Ledger, Trial
from pipeline.study.propose import distribution

# All but one of five optimizers have a momentum: as long as no finished trial is without it, the
# sampler takes it for a hyperparameter of every trial.
MOSTLY_CONDITIONAL: dict[str, Any] = {
    "lr": {"low": 1e-3, "high": 1.0, "log": True},
    "optimizer": {"choices": ["adam", "adamw", "adamax", "rmsprop", "sgd"]},
    "momentum": {
        "low": 0.0,
        "high": 0.9,
        "when": {"optimizer": ["adamw", "adamax", "rmsprop", "sgd"]},
    },
}
CELLS: dict[str, Any] = {
    "latent_dim": {"low": 4, "high": 6},
    "beta": {"low": 0.5, "high": 1.5, "step": 0.5},
    "optimizer": {"choices": ["adam", "sgd"]},
    "momentum": {"choices": [0.0, 0.5, 0.9], "when": {"optimizer": "sgd"}},
}
TWO: dict[str, Any] = {"objectives": ["kl_nats", "recon_nats"], "pruner": "none"}


def parameters(trials: list[Trial]) -> list[Parameters | None]:
    return [trial.parameters for trial in trials]


class TestAnyNumberOfWorkers:
    """The same parameters whoever proposes, in whatever order trials end, however often killed."""

    @pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes"])
    def test_same_parameters(self, tmp_path: Path, sampler: str) -> None:
        space = toy_space(sampler=sampler, trials=60, startup_trials=5)
        alone = parameters(search(space, tmp_path, 1))
        assert len({digest(each) for each in alone}) == 60
        for workers in (2, 4):
            team = search(space, tmp_path, workers, timing=workers, restarts=0.05)
            assert parameters(team) == alone

    @pytest.mark.slow
    @pytest.mark.parametrize("objectives", [{}, TWO], ids=["one", "two"])
    def test_same_parameters_of_a_gaussian_process(
        self, tmp_path: Path, objectives: dict[str, Any]
    ) -> None:
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as workers do
        space = toy_space(
            MOSTLY_CONDITIONAL, sampler="gp", trials=9, startup_trials=2, seed=8, **objectives
        )
        alone = parameters(search(space, tmp_path, 1, ends=complete))
        team = search(space, tmp_path, 3, timing=1, restarts=0.05, ends=complete)
        torch.set_num_threads(threads)
        assert parameters(team) == alone

    def test_grid(self, tmp_path: Path) -> None:
        space = toy_space(CELLS, sampler="grid", trials=36)
        alone = parameters(search(space, tmp_path, 1))
        assert parameters(search(space, tmp_path, 4, timing=1, restarts=0.05)) == alone

    def test_values_that_only_the_asker_knows_are_not_used(self, tmp_path: Path) -> None:
        space = toy_space(MOSTLY_CONDITIONAL, sampler="tpe", trials=16, startup_trials=2)
        alone = parameters(search(space, tmp_path, 1, ends=complete))
        for timing in (1, 2):
            team = search(space, tmp_path, 3, timing=timing, ends=complete)
            assert parameters(team) == alone

    @pytest.mark.parametrize("sampler", ["tpe", "random"])
    def test_two_objectives(self, tmp_path: Path, sampler: str) -> None:
        space = toy_space(sampler=sampler, trials=20, startup_trials=4, **TWO)
        alone = parameters(search(space, tmp_path, 1, ends=complete))
        team = search(space, tmp_path, 3, timing=1, restarts=0.05, ends=complete)
        assert parameters(team) == alone

    @pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
    def test_results_matter_from_number_plus_parallelism_on(
        self, tmp_path: Path, sampler: str
    ) -> None:
        plane = {"lr": {"low": 0.001, "high": 1}, "beta": {"low": 0, "high": 2}}
        space = toy_space(plane, sampler=sampler, trials=24, startup_trials=2, parallelism=4)

        def turned_from_7_on(number: int, chosen: Parameters) -> Outcome:
            return "complete", {"nelbo_nats": bowl(chosen) if number < 7 else -bowl(chosen)}

        first = parameters(search(space, tmp_path, ends=complete))
        second = parameters(search(space, tmp_path, timing=1, ends=turned_from_7_on))
        assert first[: 7 + 4] == second[: 7 + 4]
        assert first[7 + 4 :] != second[7 + 4 :]


class TestLongStudies:
    """Blocks of 8 trials instead of 200, of the older ones the best 3."""

    @pytest.fixture(autouse=True)
    def short_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(propose, "BLOCK", 8)
        monkeypatch.setattr(propose, "ELDERS", 3)

    def test_same_parameters_on_any_number_of_workers(self, tmp_path: Path) -> None:
        space = toy_space(sampler="tpe", trials=60, startup_trials=5)
        alone = parameters(search(space, tmp_path, 1))
        assert len({digest(each) for each in alone}) == 60
        for workers in (2, 4):
            team = search(space, tmp_path, workers, timing=workers, restarts=0.05)
            assert parameters(team) == alone

    def test_old_trials_matter_if_they_are_among_the_best(self, tmp_path: Path) -> None:
        """Proposals 24 to 27 see the trials from 16 on and of those before the best three."""
        plane = {name: {"low": 0.001, "high": 2} for name in ("lr", "beta")}
        space = toy_space(plane, sampler="tpe", trials=24, startup_trials=4, seed=1)
        trials = search(space, tmp_path, ends=complete)
        (path,) = tmp_path.glob("*.db")
        old = sorted(trials[:16], key=lambda trial: bowl(trial.parameters or {}))
        assert if_worst(space, path, old[-1].number) == if_worst(space, path, old[3].number)
        assert if_worst(space, path, old[-1].number) != if_worst(space, path, old[0].number)

    def test_a_long_start_is_seen_whole(self) -> None:
        long_start = proposer(toy_space(startup_trials=30), None)
        assert long_start._first_seen(59) == 0
        assert long_start._first_seen(60) == 30
        assert proposer(toy_space(sampler="cmaes"), None)._first_seen(59) == 0


def if_worst(space: Space, path: Path, number: int) -> list[Parameters]:
    """Proposals 24 to 27 as they are if trial `number` ended worse than all others."""
    copy = shutil.copy(path, path.with_suffix(f".{number}"))
    with sqlite3.connect(copy) as db:
        values = ('{"nelbo_nats": 1e3}', number)
        db.execute("UPDATE trials SET result = ? WHERE number = ?", values)
    kept = proposer(space, Ledger(f"sqlite:///{copy}"))
    return [kept.propose(number) for number in range(24, 28)]


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes"])
def test_a_restart_at_any_trial_proposes_the_same(tmp_path: Path, sampler: str) -> None:
    space = toy_space(sampler=sampler, trials=24, startup_trials=3)
    trials = search(space, tmp_path, 1)
    (path,) = tmp_path.glob("*.db")
    ledger = Ledger(f"sqlite:///{path}")
    kept = proposer(space, ledger)
    for number in (0, 1, 5, 23, 11, 11, 4):  # backwards too: a trial that was taken over
        assert kept.propose(number) == trials[number].parameters
        assert proposer(space, ledger).propose(number) == trials[number].parameters
    ledger.close()


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes", "gp"])
def test_a_new_sampler_does_not_repeat_the_draws_of_the_last(sampler: str, tmp_path: Path) -> None:
    space = toy_space(sampler=sampler, trials=10, startup_trials=10)
    trials = search(space, tmp_path, 1, restarts=0.9)
    assert len({trial.parameters["lr"] for trial in trials if trial.parameters}) == 10


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "gp"])
def test_a_sampler_that_learns_begins_at_the_centre(sampler: str, tmp_path: Path) -> None:
    trials = search(toy_space(sampler=sampler, trials=3, startup_trials=2), tmp_path)
    assert trials[0].parameters == {
        "lr": pytest.approx(10**-1.5),  # on a log scale
        "beta": 1.0,
        "latent_dim": 10,
        "batch_size": 64,  # of 32, 64, 96, 128
        "hidden": [8],
        "patience": None,
        "optimizer": "adam",  # which has neither momentum nor a searched weight decay
    }
    assert trials[1].parameters != trials[0].parameters


def test_random_search_begins_at_random(tmp_path: Path) -> None:
    (first,) = search(toy_space(sampler="random", trials=1), tmp_path)
    assert first.parameters
    assert first.parameters["beta"] != 1.0


def test_another_seed_gives_other_draws(tmp_path: Path) -> None:
    draws = [
        search(toy_space(sampler="random", trials=5, seed=seed), tmp_path, timing=seed)
        for seed in (0, 1)
    ]
    assert all(a.parameters != b.parameters for a, b in zip(*draws, strict=True))


def test_conditional_parameters_exist_where_they_should_and_only_there(tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    for trial in search(toy_space(trials=40), tmp_path):
        chosen = trial.parameters
        assert chosen is not None
        seen[chosen["optimizer"]] += 1
        assert ("momentum" in chosen) == (chosen["optimizer"] in ("sgd", "adamw"))
        assert ("weight_decay" in chosen) == (chosen["optimizer"] == "adamw")
    assert set(seen) == {"adam", "sgd", "adamw"}


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes"])
def test_values_are_of_the_domains_and_of_plain_types(tmp_path: Path, sampler: str) -> None:
    space = toy_space(sampler=sampler, trials=30, startup_trials=3)
    for trial in search(space, tmp_path, ends=complete):
        chosen = trial.parameters
        assert chosen is not None
        assert 1e-3 <= chosen["lr"] <= 1
        assert type(chosen["latent_dim"]) is int
        assert chosen["batch_size"] in (32, 64, 96, 128)
        assert chosen["hidden"] in ([8], [16, 8])
        assert chosen["patience"] in (None, 3)
        space.hyperparameters(chosen)


def test_nothing_to_search_proposes_nothing(tmp_path: Path) -> None:
    assert parameters(search(toy_space({}, trials=3), tmp_path)) == [{}, {}, {}]


def test_a_trial_that_never_had_parameters_may_fail(tmp_path: Path) -> None:
    """Killed three workers while it was proposed: later proposals go on without its result."""
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    ledger.open_study(STUDY, "toy", "search", {})
    space = toy_space(trials=9, startup_trials=1, parallelism=1)
    lease = ledger.claim(STUDY, budget=9, parallelism=1, owner="a", meta={})
    assert lease
    ledger.finish(lease, "failed", [], None, "killed 3 workers")
    assert set(proposer(space, ledger).propose(1)) >= {"lr", "beta"}
    ledger.close()


class TestGrid:
    def test_every_cell_exactly_once(self, tmp_path: Path) -> None:
        # 3 latent sizes × 3 betas × (adam, or sgd with 3 momenta)
        space = toy_space(CELLS, sampler="grid", trials=36)
        tried = Counter(digest(trial.parameters) for trial in search(space, tmp_path))
        assert tried == Counter(digest(cell) for cell in grid(space.searched))
        assert set(tried.values()) == {1}

    def test_the_order_is_shuffled_by_the_seed(self, tmp_path: Path) -> None:
        orders = [
            parameters(
                search(toy_space(CELLS, sampler="grid", trials=9, seed=s), tmp_path, timing=s)
            )
            for s in (0, 1)
        ]
        cells = list(grid(toy_space(CELLS).searched))[:9]
        assert orders[0] != orders[1]
        assert cells not in orders


def test_tpe_beats_random_search(tmp_path: Path) -> None:
    """Median of the best of 40 trials over 5 seeds."""
    best: dict[str, list[float]] = {"tpe": [], "random": []}
    for sampler, values in best.items():
        for seed in range(5):
            space = toy_space(
                {name: {"low": 1e-3, "high": 2.0} for name in ("lr", "beta")},
                sampler=sampler,
                trials=40,
                seed=seed,
                parallelism=2,
            )
            folder = tmp_path / f"{sampler}-{seed}"
            folder.mkdir()
            trials = search(space, folder, ends=complete)
            values.append(min(bowl(trial.parameters) for trial in trials if trial.parameters))
    assert statistics.median(best["tpe"]) < statistics.median(best["random"])


class TestDistributions:
    def test_both_ends_and_the_step_are_kept(self) -> None:
        real = distribution(Range(low=0.1, high=0.7, step=0.1))
        assert (real.low, real.high, real.step) == (0.1, 0.7, 0.1)
        whole = distribution(Range(low=16, high=48, step=8, integer=True))
        assert (whole.low, whole.high, whole.step) == (16, 48, 8)
        assert distribution(Range(low=1, high=64, log=True, integer=True)).log

    def test_choices_of_any_type_go_by_their_text(self) -> None:
        choices = distribution(Choices(choices=[[8], None, True, 1, "a"])).choices
        assert choices == ("[8]", "null", "true", "1", '"a"')
