"""Proposals depend on the space, the seed, the number and the trials seen: on nothing else."""

from __future__ import annotations

import random
import statistics
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from searches import (
    Parameters,
    bowl,
    complete,
    planner_of,
    proposer,
    search,
    toy_space,
    trials,
)

from pipeline.errors import UserError
from pipeline.results.states import State
from pipeline.seeds import digest
from pipeline.settings.hyperparameters import Choices, Range, grid
from pipeline.study.search import propose
from pipeline.study.search.plan import Known
from pipeline.study.search.sampler import centre, distribution
from pipeline.study.storage.rows import Trial

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


def parameters(made: list[Trial]) -> list[Parameters | None]:
    return [trial.parameters for trial in made]


class TestAnyNumberOfWorkers:
    """The same parameters whoever proposes, in whatever order trials end, however often killed."""

    @pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes"])
    def test_same_parameters(self, tmp_path: Path, sampler: str) -> None:
        space = toy_space(sampler=sampler, trials=30, startup_trials=5, pruner="none")
        alone = parameters(trials(space, tmp_path, 1))
        assert len({digest(each) for each in alone}) == 30
        for workers in (2, 4):
            team = trials(space, tmp_path, workers, timing=workers, restarts=0.02)
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
            MOSTLY_CONDITIONAL,
            sampler="gp",
            trials=9,
            startup_trials=2,
            seed=8,
            **{"pruner": "none", **objectives},
        )
        alone = parameters(trials(space, tmp_path, 1, ends=complete))
        team = trials(space, tmp_path, 3, timing=1, restarts=0.05, ends=complete)
        torch.set_num_threads(threads)
        assert parameters(team) == alone

    def test_grid(self, tmp_path: Path) -> None:
        space = toy_space(CELLS, sampler="grid", trials=36)
        alone = parameters(trials(space, tmp_path, 1))
        assert parameters(trials(space, tmp_path, 4, timing=1, restarts=0.05)) == alone

    def test_values_that_only_the_asker_knows_are_not_used(self, tmp_path: Path) -> None:
        space = toy_space(MOSTLY_CONDITIONAL, sampler="tpe", trials=16, startup_trials=2)
        alone = parameters(trials(space, tmp_path, 1, ends=complete))
        for timing in (1, 2):
            team = trials(space, tmp_path, 3, timing=timing, ends=complete)
            assert parameters(team) == alone

    @pytest.mark.parametrize("sampler", ["tpe", "random"])
    def test_two_objectives(self, tmp_path: Path, sampler: str) -> None:
        space = toy_space(sampler=sampler, trials=20, startup_trials=4, **TWO)
        alone = parameters(trials(space, tmp_path, 1, ends=complete))
        team = trials(space, tmp_path, 3, timing=1, restarts=0.05, ends=complete)
        assert parameters(team) == alone

    @pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
    def test_results_matter_once_they_are_seen(self, tmp_path: Path, sampler: str) -> None:
        plane = {"lr": {"low": 0.001, "high": 1}, "beta": {"low": 0, "high": 2}}
        space = toy_space(plane, sampler=sampler, trials=24, startup_trials=2, pruner="none")

        parts = search(space, tmp_path, ends=complete)
        seen = next(part.number for part in parts if part.follows == 7)
        other = [
            replace(part, result={"nelbo_nats": -(part.result or {})["nelbo_nats"]})
            if part.number == 7
            else part
            for part in parts
        ]
        for number in range(1, 24):
            planners = [planner_of(space, each[:number]) for each in (parts, other)]
            first, second = (proposer(space).propose(planner) for planner in planners)
            assert (first == second) or number >= seen
        assert first != second


class TestLongStudies:
    """Blocks of 8 trials instead of 200, of the older ones the best 3."""

    @pytest.fixture(autouse=True)
    def short_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(propose, "BLOCK", 8)
        monkeypatch.setattr(propose, "ELDERS", 3)

    def test_same_parameters_on_any_number_of_workers(self, tmp_path: Path) -> None:
        space = toy_space(sampler="tpe", trials=40, startup_trials=5)
        alone = parameters(trials(space, tmp_path, 1))
        assert len({digest(each) for each in alone}) == 40
        team = trials(space, tmp_path, 4, timing=4, restarts=0.02)
        assert parameters(team) == alone

    def test_old_trials_matter_if_they_are_among_the_best(self) -> None:
        """Trial 24 sees the trials from 16 on and of those before the best three."""
        plane = {name: {"low": 0.001, "high": 2} for name in ("lr", "beta")}
        space = toy_space(plane, sampler="tpe", trials=30, startup_trials=4, pruner="none")
        draw = random.Random(1)
        drawn = [{name: draw.uniform(0.01, 2) for name in plane} for _ in range(24)]
        known = [Known(c, State.COMPLETE, 5, {"nelbo_nats": bowl(c)}) for c in drawn]
        old = sorted(range(16), key=lambda n: bowl(drawn[n]))

        def if_worst(number: int) -> Parameters:
            worst = Known(drawn[number], State.COMPLETE, 5, {"nelbo_nats": 1e3})
            seen = [worst if n == number else each for n, each in enumerate(known)]
            return proposer(space).propose(Seen(seen))

        assert if_worst(old[-1]) == if_worst(old[3])
        assert if_worst(old[-1]) != if_worst(old[0])

    def test_the_deepest_are_kept_where_none_is_complete(self) -> None:
        space = toy_space({"lr": {"low": 0.001, "high": 2}}, sampler="tpe", startup_trials=1)
        known = [
            Known({"lr": 0.1}, State.PAUSED, 1 + (n in (2, 5, 7)), {"nelbo_nats": float(n)})
            for n in range(17)
        ]
        assert proposer(space)._seen(known) == [2, 5, 7, *range(8, 17)]


class Seen:
    """A planner, as far as a proposal reads it."""

    def __init__(self, trials: list[Known]):
        self.trials = trials
        self.kept: list[dict[str, Any]] = []


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes"])
def test_a_restart_at_any_part_proposes_the_same(tmp_path: Path, sampler: str) -> None:
    space = toy_space(sampler=sampler, trials=16, startup_trials=3, pruner="none")
    parts = search(space, tmp_path)
    kept = proposer(space)
    for number in (0, 1, 5, 11, 11, 15):
        planner = planner_of(space, parts[:number])
        assert kept.propose(planner) == parts[number].parameters
        assert proposer(space).propose(planner) == parts[number].parameters


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes", "gp"])
def test_a_new_sampler_does_not_repeat_the_draws_of_the_last(sampler: str, tmp_path: Path) -> None:
    space = toy_space(sampler=sampler, trials=10, startup_trials=10, pruner="none")
    made = trials(space, tmp_path, 1, restarts=0.3)
    assert len({trial.parameters["lr"] for trial in made if trial.parameters}) == 10


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "gp"])
def test_a_sampler_that_learns_begins_at_the_centre(sampler: str, tmp_path: Path) -> None:
    space = toy_space(sampler=sampler, trials=3, startup_trials=2, pruner="none")
    made = trials(space, tmp_path)
    assert made[0].parameters == {
        "lr": pytest.approx(10**-1.5),  # on a log scale
        "beta": 1.0,
        "latent_dim": 10,
        "batch_size": 64,  # of 32, 64, 96, 128
        "hidden": [8],
        "patience": None,
        "optimizer": "adam",  # which has neither momentum nor a searched weight decay
    }
    assert made[1].parameters != made[0].parameters


def test_random_search_begins_at_random(tmp_path: Path) -> None:
    (first,) = trials(toy_space(sampler="random", trials=1), tmp_path)
    assert first.parameters
    assert first.parameters["beta"] != 1.0


def test_another_seed_gives_other_draws(tmp_path: Path) -> None:
    draws = [
        trials(toy_space(sampler="random", trials=5, seed=seed), tmp_path, timing=seed)
        for seed in (0, 1)
    ]
    assert all(a.parameters != b.parameters for a, b in zip(*draws, strict=True))


def test_conditional_parameters_exist_where_they_should_and_only_there(tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    for trial in trials(toy_space(trials=40), tmp_path):
        chosen = trial.parameters
        assert chosen is not None
        seen[chosen["optimizer"]] += 1
        assert ("momentum" in chosen) == (chosen["optimizer"] in ("sgd", "adamw"))
        assert ("weight_decay" in chosen) == (chosen["optimizer"] == "adamw")
    assert set(seen) == {"adam", "sgd", "adamw"}


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes"])
def test_values_are_of_the_domains_and_of_plain_types(tmp_path: Path, sampler: str) -> None:
    space = toy_space(sampler=sampler, trials=30, startup_trials=3, pruner="none")
    for trial in trials(space, tmp_path, ends=complete):
        chosen = trial.parameters
        assert chosen is not None
        assert 1e-3 <= chosen["lr"] <= 1
        assert type(chosen["latent_dim"]) is int
        assert chosen["batch_size"] in (32, 64, 96, 128)
        assert chosen["hidden"] in ([8], [16, 8])
        assert chosen["patience"] in (None, 3)
        space.hyperparameters(chosen)


def test_nothing_to_search_proposes_nothing(tmp_path: Path) -> None:
    assert trials(toy_space({}, trials=3), tmp_path) == []


@pytest.mark.parametrize("number", range(6))
def test_a_grid_has_each_cell_once_whichever_is_tried_first(tmp_path: Path, number: int) -> None:
    cells: dict[str, Any] = {
        "latent_dim": {"choices": [4, 8, 16]},
        "batch_size": {"choices": [32, 64]},
    }
    wanted = list(grid(toy_space(cells).searched))[number]
    space = toy_space(cells, sampler="grid", trials=6, enqueue=[wanted])
    made = parameters(trials(space, tmp_path))
    assert made[0] == wanted
    assert len({str(each) for each in made}) == 6


class TestFirst:
    def test_settings_that_are_to_be_tried_first_and_then_the_centre(self, tmp_path: Path) -> None:
        wanted = [{"lr": 0.5, "optimizer": "adamw", "momentum": 0.1}, {"latent_dim": 16}]
        space = toy_space(trials=4, startup_trials=2, enqueue=wanted)
        first, second, third, fourth = parameters(trials(space, tmp_path))
        assert first
        assert second
        assert {k: first[k] for k in wanted[0]} == wanted[0]
        assert first["weight_decay"] == pytest.approx(1e-2)  # of adamw, at its centre
        assert second["latent_dim"] == 16
        assert third == centre(space.searched)
        assert fourth not in (first, second, third)

    def test_a_centre_that_is_given(self) -> None:
        space = toy_space(
            {
                "lr": {"low": 1e-3, "high": 1.0, "log": True, "centre": 0.2},
                "latent_dim": {"low": 4, "high": 16, "centre": 5},
                "optimizer": {"choices": ["adam", "sgd"], "centre": "sgd"},
            }
        )
        chosen = centre(space.searched)
        assert chosen == {"lr": 0.2, "latent_dim": 5, "optimizer": "sgd"}
        assert type(chosen["latent_dim"]) is int

    def test_a_share_is_drawn_whatever_was_seen(self) -> None:
        space = toy_space({"lr": {"low": 1e-3, "high": 1.0}}, random_share=0.3, startup_trials=1)
        known = [
            Known({"lr": 0.5}, State.COMPLETE, 5, {"nelbo_nats": float(n)}) for n in range(200)
        ]
        drawn = [propose.draws_at_random(space.search, number) for number in range(200)]
        assert 40 < sum(drawn) < 80
        number = drawn.index(True, 1)
        some = [proposer(space).propose(Seen(known[:number])) for _ in range(2)]
        other = [replace(each, result={"nelbo_nats": 0.0}) for each in known[:number]]
        assert some[0] == some[1] == proposer(space).propose(Seen(other))


class TestConstraints:
    PLANE = {"lr": {"low": 1e-3, "high": 1.0}, "latent_dim": {"low": 4, "high": 16}}  # noqa: RUF012

    def small(self, chosen: Parameters) -> bool:
        return chosen["latent_dim"] <= 5

    @pytest.mark.parametrize("sampler", ["tpe", "random"])
    def test_what_breaks_them_is_not_proposed_and_the_rest_follows_from_the_seed(
        self, sampler: str
    ) -> None:
        space = toy_space(self.PLANE, sampler=sampler, startup_trials=3)
        known: list[Known] = []
        for _ in range(12):
            chosen, again = (
                propose.Proposer(space.searched, space.search, self.small).propose(Seen(known))
                for _ in range(2)
            )
            assert chosen == again
            assert self.small(chosen)
            known.append(Known(chosen, State.COMPLETE, 5, {"nelbo_nats": bowl(chosen)}))
        assert len({digest(each.parameters) for each in known}) == 12

    def test_where_nothing_keeps_them_the_remedy_is_said(self) -> None:
        space = toy_space(self.PLANE)
        strict = propose.Proposer(space.searched, space.search, lambda chosen: False)
        with pytest.raises(UserError, match=r"^search.constraints: none of 1000 settings"):
            strict.propose(Seen([]))

    def test_a_grid_leaves_out_the_cells_that_break_them(self) -> None:
        space = toy_space(CELLS, sampler="grid", trials=36)
        maker = propose.Proposer(space.searched, space.search, self.small)
        known = [Known({}, State.COMPLETE)] * 24
        cells = [maker.propose(Seen(known[:n])) for n in range(24)]
        assert all(self.small(cell) for cell in cells)
        assert len({digest(cell) for cell in cells}) == 24  # of 36, two latent sizes of three
        with pytest.raises(UserError, match="the grid has 24 cells within"):
            maker.propose(Seen(known))


class TestGrid:
    def test_every_cell_exactly_once(self, tmp_path: Path) -> None:
        # 3 latent sizes × 3 betas × (adam, or sgd with 3 momenta)
        space = toy_space(CELLS, sampler="grid", trials=36)
        tried = Counter(digest(trial.parameters) for trial in trials(space, tmp_path))
        assert tried == Counter(digest(cell) for cell in grid(space.searched))
        assert set(tried.values()) == {1}

    def test_the_order_is_shuffled_by_the_seed(self, tmp_path: Path) -> None:
        orders = [
            parameters(
                trials(toy_space(CELLS, sampler="grid", trials=9, seed=s), tmp_path, timing=s)
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
                pruner="none",
            )
            folder = tmp_path / f"{sampler}-{seed}"
            folder.mkdir()
            made = trials(space, folder, ends=complete)
            values.append(min(bowl(trial.parameters) for trial in made if trial.parameters))
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
