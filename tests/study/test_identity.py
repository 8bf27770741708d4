"""What makes trials comparable: more trials extend a study, anything else forks a new one."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from pipeline.settings.search_section import Search
from pipeline.settings.space import Space, parse_space
from pipeline.study import identity
from pipeline.study.identity import candidate_study, changes, search_study

DATA = "d" * 64
RAW: dict[str, Any] = {
    "data": {"name": "mnist"},
    "model": {"likelihood": "gaussian"},
    "parameters": {
        "lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "optimizer": {"choices": ["adam", "sgd"]},
        "momentum": {"low": 0.1, "high": 0.9, "when": {"optimizer": "sgd"}},
        "hidden": [64],
    },
    "search": {"fallback": {"lr": 0.001}},
}
# Another valid value of every setting of the search but the three that do not count.
OTHER_SEARCH = {
    "sampler": "random",
    "startup_trials": 3,
    "random_share": 0.5,
    "enqueue": [{"lr": 0.002}],
    "pruner": "none",
    "rungs": [2, 4],
    "percentile": 10.0,
    "reduction_factor": 4,
    "constraints": {"weights": 10_000},
    "min_epochs": 2,
    "min_trials": 5,
    "epochs": 6,
    "parallelism": 3,
    "seed": 1,
    "objectives": ["kl_nats", "recon_nats"],
}
CHOSEN = {"lr": 0.001, "optimizer": "adam"}


def space(**sections: dict[str, Any]) -> Space:
    raw = copy.deepcopy(RAW)
    for section, keys in sections.items():
        raw[section] = {**raw.get(section, {}), **keys}
    return parse_space("x", raw, "x.yaml")


def search_id(**sections: dict[str, Any]) -> str:
    return search_study(space(**sections), DATA).id


def candidate_id(chosen: dict[str, Any] = CHOSEN, **sections: dict[str, Any]) -> str:
    return candidate_study(space(**sections), DATA, chosen).id


IRRELEVANT: list[dict[str, Any]] = [
    {"retrain": {"top": 5, "seeds": 9}},
    {"evaluate": {"iw_samples": 7}},
    {"render": {"projections": ["umap"]}},
    {"search": {"trials": 500}},
    {"search": {"total_epochs": 500}},
    {"search": {"fallback": None}},
]
FORKS: list[dict[str, Any]] = [
    {"model": {"likelihood": "bernoulli"}},
    {"model": {"sigma": "optimal"}},
    {"parameters": {"hidden": [32]}},
    {"parameters": {"beta": 2.0}},
    {"parameters": {"hidden": {"choices": [[64]]}}},
    {"parameters": {"lr": {"low": 1e-4, "high": 1e-1, "log": True}}},
    {"parameters": {"lr": {"low": 1e-4, "high": 1e-2}}},
    {"parameters": {"momentum": {"low": 0.1, "high": 0.9}}},
    {"parameters": {"optimizer": {"choices": ["sgd", "adam"]}}},
]


class TestSearch:
    @pytest.mark.parametrize("change", IRRELEVANT, ids=str)
    def test_what_does_not_change_a_trial(self, change: dict[str, Any]) -> None:
        assert search_id(**change) == search_id()

    @pytest.mark.parametrize("change", FORKS, ids=str)
    def test_what_does(self, change: dict[str, Any]) -> None:
        assert search_id(**change) != search_id()

    def test_every_setting_of_the_search_but_its_budgets_and_ends(self) -> None:
        assert set(OTHER_SEARCH) == set(Search.model_fields) - {
            "trials",
            "total_epochs",
            "stop",
            "fallback",
            "observations",
        }
        for key, value in OTHER_SEARCH.items():
            off = {"pruner": "none"} if key == "objectives" else {}
            assert search_id(search={key: value, **off}) != search_id(search=off), key

    def test_a_stop_where_nothing_else_waits_for_a_result(self) -> None:
        """It puts the parts at other places on the clock; anywhere else it only ends a search."""
        for blind in ({"sampler": "random", "pruner": "none"}, {}):
            stops = [
                search_id(search={**blind, "stop": stop})
                for stop in (None, {"patience": 3}, {"patience": 9, "gain": 1.0})
            ]
            assert (stops[0] != stops[1]) == bool(blind)
            assert stops[1] == stops[2]

    def test_the_table_that_it_begins_with_counts_by_its_content(self) -> None:
        def of(file: str, sha256: str) -> str:
            return search_id(search={"observations": {"file": file, "sha256": sha256}})

        assert of("a", "1") == of("b", "1") != of("a", "2") != search_id()

    def test_other_data_other_code_and_another_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        study = search_study(space(), DATA)
        assert search_study(space(), "e" * 64).id != study.id
        renamed = parse_space("y", RAW, "y.yaml")
        assert search_study(renamed, DATA).id == study.id.replace("x-", "y-")
        for version in ("TRAINING_SEMANTICS", "PROPOSAL_SEMANTICS"):
            with monkeypatch.context() as raised:
                raised.setattr(identity, version, 99)
                assert search_id() != study.id

    def test_a_default_spelled_out_is_the_same(self) -> None:
        assert search_id(parameters={"beta": 1.0}, search={"sampler": "tpe"}) == search_id()
        assert search_id(parameters={"beta": 1}) == search_id()

    def test_the_order_of_the_file_is_not_part_of_it(self) -> None:
        turned = dict(reversed(RAW["parameters"].items()))
        other = parse_space("x", {**RAW, "parameters": turned}, "x.yaml")
        assert search_study(other, DATA) == search_study(space(), DATA)
        assert list(other.searched) == list(space().searched)  # so that proposals agree as well

    def test_budget_and_parallelism_are_those_of_the_search(self) -> None:
        study = search_study(space(search={"trials": 7, "epochs": 3, "parallelism": 2}), DATA)
        assert (study.kind, study.budget, study.epochs, study.parallelism) == ("search", 7, 3, 2)

    def test_with_nothing_to_search_it_has_no_trials(self) -> None:
        fixed = {"lr": 0.1, "optimizer": "sgd", "momentum": 0.5}
        assert search_study(space(parameters=fixed), DATA).budget == 0


class TestCandidates:
    @pytest.mark.parametrize("change", IRRELEVANT, ids=str)
    def test_what_does_not_change_a_run(self, change: dict[str, Any]) -> None:
        assert candidate_id(**change) == candidate_id()

    @pytest.mark.parametrize(
        "change",
        [
            {"model": {"likelihood": "bernoulli"}},
            {"parameters": {"hidden": [32]}},  # fixed, so not among the chosen ones
            {"parameters": {"beta": 2.0}},
            {"retrain": {"epochs": 21}},
            {"search": {"seed": 1}},
            {"search": {"objectives": ["kl_nats", "recon_nats"], "pruner": "none"}},
        ],
        ids=str,
    )
    def test_what_does(self, change: dict[str, Any]) -> None:
        assert candidate_id(**change) != candidate_id()

    def test_the_chosen_values_and_the_data(self) -> None:
        assert candidate_id({**CHOSEN, "lr": 0.002}) != candidate_id()
        assert candidate_study(space(), "e" * 64, CHOSEN).id != candidate_id()

    def test_how_a_setting_was_found_does_not_matter(self) -> None:
        assert candidate_id(search={"sampler": "random", "epochs": 9}) == candidate_id()
        wider = {"lr": {"low": 1e-6, "high": 1.0, "log": True}}
        assert candidate_id(parameters=wider) == candidate_id()

    def test_it_is_never_a_study_of_the_search(self) -> None:
        assert candidate_id() != search_id()

    def test_all_its_runs_may_be_worked_on_at_once(self) -> None:
        study = candidate_study(space(retrain={"seeds": 5, "epochs": 8}), DATA, CHOSEN)
        assert (study.kind, study.budget, study.parallelism, study.epochs) == ("candidate", 5, 5, 8)


class TestChanges:
    def test_each_difference_has_its_key_and_both_values(self) -> None:
        old = search_study(space(), DATA).spec
        new = search_study(
            space(parameters={"hidden": [32], "lr": {"low": 1e-4, "high": 0.1, "log": True}},
                  search={"parallelism": 2}), "e" * 64
        ).spec  # fmt: skip
        assert changes(old, new) == [
            f"data: {DATA} → {'e' * 64}",
            "fixed.hidden: [64] → [32]",
            "search.parallelism: 4 → 2",
            "searched.lr.high: 0.01 → 0.1",
        ]

    def test_what_moves_between_sections_is_named_twice(self) -> None:
        old = search_study(space(), DATA).spec
        new = search_study(space(parameters={"optimizer": "sgd"}), DATA).spec
        named = [line.split(":")[0] for line in changes(old, new)]
        assert named == [
            "fixed.optimizer",
            "searched.momentum.when.optimizer",
            "searched.optimizer",
        ]

    def test_nothing(self) -> None:
        spec = search_study(space(), DATA).spec
        assert changes(spec, copy.deepcopy(spec)) == []
