"""What a search will take, told beforehand, and where its trials came from, told afterwards."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest
from kept_trials import kept
from searches import complete, epoch, search, toy_space

from pipeline.settings.space import parse_space
from pipeline.study.search.beginning import counted
from pipeline.study.search.forecast import Forecast, forecast
from pipeline.study.search.sources import Source, sources


@pytest.mark.parametrize(
    "options",
    [
        {"trials": 24, "epochs": 9, "rungs": [1, 3, 9], "reduction_factor": 2},
        {"trials": 12, "epochs": 8, "parallelism": 1},
        {"trials": 30, "epochs": 9, "total_epochs": 60},
        {"trials": 10, "epochs": 3, "pruner": "none"},
    ],
    ids=str,
)
def test_a_forecast_is_near_what_a_search_takes(options: dict[str, Any], tmp_path: Path) -> None:
    taken = []
    for seed in range(3):
        space = toy_space(sampler="random", seed=seed, **options)
        (folder := tmp_path / str(seed)).mkdir()
        parts = search(space, folder, ends=complete)
        taken.append(sum(part.epochs - part.since for part in parts))
    foreseen = forecast(toy_space(sampler="random", **options))
    assert foreseen.epochs == pytest.approx(statistics.mean(taken), rel=0.2)
    assert foreseen == forecast(toy_space(sampler="random", **options))


def test_a_long_search_is_foreseen_from_a_part_of_it() -> None:
    options: dict[str, Any] = {"epochs": 9, "rungs": [1, 3, 9]}
    short, long = (forecast(toy_space(trials=n, **options)).epochs for n in (200, 20_000))
    assert long == pytest.approx(100 * short, rel=1e-3)


def test_kept_trials_are_not_trained_again(tmp_path: Path) -> None:
    options: dict[str, Any] = {"trials": 36, "epochs": 9, "rungs": [1, 3, 9], "sampler": "random"}
    its = toy_space({"lr": {"low": 1e-3, "high": 1.0}}, **options)
    lrs = [(7 * n % 16 + 0.5) / 16 for n in range(16)]
    table = [
        kept(n, (epoch(n, {"lr": lr}, 1)["nelbo_nats"],), "paused", lr=lr)
        for n, lr in enumerate(lrs)
    ]
    begins = counted(its, "toy", table, lambda chosen: True, lambda chosen: 1).parts
    taken = []
    for seed in range(4):
        one = its.model_copy(update={"search": its.search.model_copy(update={"seed": seed})})
        parts = search(one, tmp_path / str(seed), ends=complete, begins_with=begins)
        taken.append(sum(part.epochs - part.since for part in parts if not part.kept))
    foreseen = forecast(its, begins_with=begins)
    assert foreseen.epochs - 16 == pytest.approx(statistics.mean(taken), rel=0.2)
    assert foreseen.cost == pytest.approx(foreseen.epochs - 16)


def test_a_search_whose_trials_are_all_kept_costs_nothing(tmp_path: Path) -> None:
    its = toy_space({"lr": {"low": 1e-3, "high": 1.0}}, trials=6, epochs=3, pruner="none")
    curves = {
        n: tuple(epoch(n, {"lr": 0.1 * n + 0.1}, e)["nelbo_nats"] for e in (1, 2, 3))
        for n in range(6)
    }
    for count, cost in ((6, 0.0), (4, 6.0)):  # two trials of three epochs are left
        table = [kept(n, curves[n], "complete", lr=0.1 * n + 0.1) for n in range(count)]
        begins = counted(its, "toy", table, lambda chosen: True, lambda chosen: 1).parts
        assert forecast(its, begins_with=begins) == Forecast(18, cost)


def test_costs_are_those_of_the_settings() -> None:
    cheap = forecast(toy_space({"latent_dim": {"low": 2, "high": 3}}, trials=6), (1, 8, 8), 1000)
    dear = forecast(toy_space({"latent_dim": {"low": 900, "high": 999}}, trials=6), (1, 8, 8), 1000)
    assert dear.cost / dear.epochs > 2 * cheap.cost / cheap.epochs
    fixed = parse_space("one", {"data": {"name": "digits"}, "parameters": {"lr": 0.1}}, "one.yaml")
    assert forecast(fixed) == Forecast(0, 0.0)


def test_what_a_sampler_had_not_learned_for_is_a_draw(tmp_path: Path) -> None:
    space = toy_space(trials=20, epochs=3, startup_trials=6, parallelism=2, random_share=0.25,
                      enqueue=[{"lr": 0.5}])  # fmt: skip
    found = sources(space, search(space, tmp_path, ends=complete))
    assert found[:2] == [Source.GIVEN, Source.GIVEN], "what was enqueued, and the centre"
    assert set(found[2:6]) == {Source.DRAWN}
    assert {Source.DRAWN, Source.PROPOSED} == set(found[8:]), "a quarter is drawn still"
    assert found.count(Source.PROPOSED) > 6


@pytest.mark.parametrize(("sampler", "source"), [("random", "drawn"), ("grid", "given")])
def test_samplers_that_learn_nothing_propose_nothing(
    sampler: str, source: str, tmp_path: Path
) -> None:
    choices = {"latent_dim": {"choices": [4, 5, 6]}, "beta": {"choices": [0.5, 1.0]}}
    space = toy_space(choices, sampler=sampler, trials=6, epochs=3)
    found = sources(space, search(space, tmp_path, ends=complete))
    assert found == [source] * 6
