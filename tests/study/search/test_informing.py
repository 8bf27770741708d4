"""What observations of other studies tell a search, and how little they cost where they mislead."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import searches
from kept_trials import kept, origin
from searches import complete, outcome, search, toy_space

from pipeline.results.states import State
from pipeline.settings.hyperparameters import Value
from pipeline.settings.space import Space
from pipeline.study.search.informing import first_tried, informed, observed
from pipeline.study.search.kept_table import Kept
from pipeline.study.search.plan import Known
from pipeline.study.search.propose import Proposer
from pipeline.study.search.sampler import centre
from pipeline.study.search.sources import Source, sources
from pipeline.study.storage.rows import Part, trials_of

Settings = list[dict[str, Value]]

MNIST = origin("mnist-0123456789ab", data="a" * 64)
LR: dict[str, Any] = {"lr": {"low": 1e-3, "high": 1e-1, "log": True}}
BOTH: dict[str, Any] = {
    "lr": {"low": 1e-3, "high": 1.0, "log": True, "centre": 0.9},
    "latent_dim": {"low": 4, "high": 16, "centre": 16},
}


def space(parameters: dict[str, Any] = LR, **changes: Any) -> Space:
    return toy_space(parameters, **{"epochs": 4, "rungs": [1, 2, 4], **changes})


def of(*trials: Kept, parameters: dict[str, Any] = LR) -> Settings:
    return observed(space(parameters).searched, trials)[0]


def left_out(*trials: Kept, parameters: dict[str, Any] = LR) -> dict[str, int]:
    return observed(space(parameters).searched, trials)[1]


class TestObserved:
    def test_of_values_only_the_order_within_a_study_is_read(self) -> None:
        other = origin("digits-0123456789ab", data="b" * 64)
        found = of(
            kept(0, (100.0,), of=MNIST, lr=0.01),
            kept(1, (90.0,), of=MNIST, lr=0.02),
            kept(0, (-5.0,), of=other, lr=0.03),
            kept(1, (-4.0,), of=other, lr=0.04),
            kept(2, (-3.0,), of=other, lr=0.05),
        )
        assert [each["lr"] for each in found] == [0.03, 0.02, 0.04, 0.01, 0.05]

    def test_studies_that_can_be_compared_are_ranked_together(self) -> None:
        again = origin("mnist-ba9876543210", data="a" * 64)
        gaussian = origin(model={"likelihood": "gaussian", "sigma": 0.7}, data="a" * 64)
        trials = [kept(n, (9.0 - n,), of=MNIST, lr=0.01 + n / 1000) for n in range(2)]
        found = of(*trials, kept(0, (8.5,), of=again, lr=0.02))
        assert [each["lr"] for each in found] == [0.011, 0.02, 0.01]
        found = of(*trials, kept(0, (8.5,), of=gaussian, lr=0.02), kept(1, (1.0,), of=gaussian))
        assert [each["lr"] for each in found] == [0.011, 0.01, 0.02]

    def test_who_has_come_further_ranks_before(self) -> None:
        found = of(
            kept(0, (3.0,), "paused", of=MNIST, lr=0.01),
            kept(1, (9.0, 5.0), "paused", of=MNIST, lr=0.02),
            kept(2, (9.0, 8.0, 7.0, 6.0), of=MNIST, lr=0.03),
        )
        assert [each["lr"] for each in found] == [0.03, 0.02, 0.01]

    def test_failures_say_nothing(self) -> None:
        trials = [kept(0, (), "failed", of=MNIST, lr=0.01), kept(1, of=MNIST, lr=0.02)]
        assert of(*trials) == [{"lr": 0.02}]
        assert left_out(*trials) == {"failures": 1}

    def test_a_value_that_the_space_cannot_propose_is_passed_over(self) -> None:
        names = {**LR, "optimizer": {"choices": ["adam", "adamax"]}}
        trials = [
            kept(0, of=MNIST, lr=0.5, optimizer="adam"),  # beyond the range
            kept(1, of=MNIST, lr=0.02, optimizer="sgd"),  # a choice that is gone
            kept(2, of=MNIST, lr=True, optimizer=["adam"]),
            kept(3, of=MNIST, optimizer="adamax"),  # not searched there: no default is taken
        ]
        found = of(*trials, parameters=names)
        assert found == [{"optimizer": "adam"}, {"lr": 0.02}, {"optimizer": "adamax"}]
        assert left_out(*trials, parameters=names) == {"nothing that is searched here": 1}

    def test_what_hangs_on_a_value_that_is_passed_over_is_so_too(self) -> None:
        momentum = {"low": 0.1, "high": 0.5, "when": {"optimizer": "sgd"}}
        names = {"optimizer": {"choices": ["adam", "sgd"]}, "momentum": momentum, **LR}
        trials = [
            kept(0, of=MNIST, optimizer="rmsprop", momentum=0.3, lr=0.01),
            kept(1, of=MNIST, optimizer="sgd", momentum=0.3),
            kept(2, of=MNIST, optimizer="sgd", momentum=0.9),
        ]
        found = of(*trials, parameters=names)
        assert found == [{"lr": 0.01}, {"optimizer": "sgd", "momentum": 0.3}, {"optimizer": "sgd"}]


def of_bowl(sign: float = 1.0, count: int = 40) -> Settings:
    """Random settings of the toy space, best first, or worst."""
    its = space(BOTH, seed=99)
    draw = Proposer(its.searched, its.search).draw
    return sorted((draw(n) for n in range(count)), key=lambda s: sign * searches.bowl(s))


def tried(its: Space, observations: Settings) -> Settings:
    return first_tried(its.searched, its.search, observations, lambda chosen: True)


class TestFirstTried:
    def test_the_best_come_first_and_gaps_are_at_the_centre(self) -> None:
        found = tried(space(BOTH), [{"lr": 0.03}, {"lr": 0.02, "latent_dim": 8}])
        assert found == [{"lr": 0.03, "latent_dim": 16}, {"lr": 0.02, "latent_dim": 8}]

    def test_a_hyperparameter_that_then_exists_is_at_its_centre_too(self) -> None:
        momentum = {"low": 0.1, "high": 0.5, "when": {"optimizer": "sgd"}}
        its = space({"optimizer": {"choices": ["adam", "sgd"]}, "momentum": momentum})
        assert tried(its, [{"optimizer": "sgd"}, {"optimizer": "adam"}]) == [
            {"optimizer": "sgd", "momentum": 0.3},
            {"optimizer": "adam"},
        ]

    def test_half_of_the_startup_trials(self) -> None:
        assert len(tried(space(BOTH), of_bowl())) == 5
        assert len(tried(space(BOTH, startup_trials=3), of_bowl())) == 2

    def test_copies_come_once(self) -> None:
        assert tried(space(), [{"lr": 0.01}] * 100_000 + [{"lr": 0.02}]) == [
            {"lr": 0.01}, {"lr": 0.02}]  # fmt: skip

    def test_none_breaks_a_constraint(self) -> None:
        its = space({"latent_dim": {"choices": [4, 8, 16]}})
        given: Settings = [{"latent_dim": 16}, {"latent_dim": 8}]
        found = first_tried(its.searched, its.search, given, lambda c: c["latent_dim"] < 16)
        assert found == [{"latent_dim": 8}]


ITS = space(BOTH, trials=24, parallelism=4, seed=5)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What workers of the toy searches are told to try first."""
    settings: Settings = []
    monkeypatch.setattr(
        searches,
        "proposer",
        lambda its: Proposer(its.searched, its.search, informing=settings),
    )
    return settings


def begun(parts: Sequence[Part]) -> list[Any]:
    return [trial.parameters for trial in trials_of(parts)]


class TestSearch:
    def test_every_second_trial_is_theirs_at_first(self, told: Settings, tmp_path: Path) -> None:
        plain = begun(search(ITS, tmp_path / "a", ends=complete))
        told += tried(ITS, of_bowl())
        parts = search(ITS, tmp_path / "b", ends=complete)
        found = begun(parts)
        assert found[0] == centre(ITS.searched)
        assert found[1:10:2] == told
        assert found[2:9:2] == plain[2:9:2]  # random draws
        came_from = sources(ITS, parts, told)
        assert came_from[1:10:2] == [Source.INFORMED] * 5
        assert came_from.count(Source.INFORMED) == 5

    def test_what_misleads_is_left_as_soon_as_that_shows(
        self, told: Settings, tmp_path: Path
    ) -> None:
        told += tried(ITS, of_bowl(-1.0))
        parts = search(ITS, tmp_path, ends=complete)
        came_from = sources(ITS, parts, told)
        assert came_from[1] == Source.INFORMED
        assert came_from.count(Source.INFORMED) <= 3
        assert set(came_from[7:10]) == {Source.DRAWN}

    @pytest.mark.parametrize("sign", [1.0, -1.0])
    @pytest.mark.parametrize(("workers", "restarts"), [(2, 0.0), (8, 0.0), (8, 0.05)])
    def test_workers_and_deaths_change_nothing(
        self, told: Settings, sign: float, workers: int, restarts: float, tmp_path: Path
    ) -> None:
        told += tried(ITS, of_bowl(sign))
        one = search(ITS, tmp_path / "a")
        other = search(ITS, tmp_path / "b", workers, timing=3, restarts=restarts)
        assert outcome(other) == outcome(one)

    def test_without_any_nothing_changes(self, tmp_path: Path) -> None:
        parts = search(ITS, tmp_path)
        assert Source.INFORMED not in sources(ITS, parts)

    def test_settings_that_were_given_come_first(self, told: Settings, tmp_path: Path) -> None:
        change = {"enqueue": [{"lr": 0.5}, {"lr": 0.6}], "startup_trials": 4}
        its = ITS.model_copy(update={"search": ITS.search.model_copy(update=change)})
        told += tried(its, of_bowl())
        found = begun(search(its, tmp_path, ends=complete))
        assert [found[3], found[5]] == told


class Seen:
    """A search of which the trials have come to these NELBOs: [] has failed, None is at work."""

    def __init__(self, informing: Settings, curves: list[list[float] | None]):
        theirs = iter(informing)
        settings = [next(theirs) if n % 2 else {"lr": 0.5} for n in range(len(curves))]
        self._curves = curves
        self.kept: list[Any] = []
        states = [
            State.RUNNING if curve is None else State.PAUSED if curve else State.FAILED
            for curve in curves
        ]
        self.trials = [
            Known(setting, state, len(curve or []))
            for setting, state, curve in zip(settings, states, curves, strict=True)
        ]

    def latest(self, number: int) -> Any:
        """A part that has gone on since: what comes after is not seen."""
        return SimpleNamespace(curve=[{"nelbo_nats": v} for v in [*self._curves[number], 0.0]])


@pytest.mark.parametrize(
    ("curves", "misleads"),
    [
        ([[5.0], [4.0], [5.0], [4.0]], False),
        ([[4.0], [5.0], [4.0], [5.0]], True),
        ([[4.0], [5.0], [5.0], [4.0]], False),  # as often better as worse
        ([[4.0], [4.0], [4.0], [4.0]], False),
        ([[4.0], [5.0], [4.0], None], False),  # two comparisons say nothing
        ([[4.0], [5.0, 1.0], [4.0], [5.0, 1.0]], True),  # after the epoch that both have come to
        ([[9.0], [], [9.0], []], True),  # a failure is worse than all
        ([[], [9.0], [], [9.0]], False),
        ([[], [], [], []], False),
    ],
)
def test_when_they_mislead(curves: list[list[float] | None], misleads: bool) -> None:
    settings = tried(ITS, of_bowl())
    seen: Any = Seen(settings, [*curves, None])
    assert informed(settings, seen, 4) == (None if misleads else settings[2])
