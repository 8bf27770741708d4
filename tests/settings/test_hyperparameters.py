"""Hyperparameters, their domains, and what the `parameters` section means."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.seeds import derive_seed, digest, trial_seed
from pipeline.settings.hyperparameters import ONLY_FOR_FAMILY, Choices, Hyperparameters, Range, grid
from pipeline.settings.parameters import parse_parameters


def searched(**raw: Any) -> dict[str, Any]:
    return parse_parameters(raw)[1]


class TestHyperparameters:
    def test_every_one_has_a_valid_default_and_a_description(self) -> None:
        values = Hyperparameters().model_dump()
        assert Hyperparameters(**values) == Hyperparameters()
        assert all(field.description for field in Hyperparameters.model_fields.values())

    def test_the_families_read_hyperparameters_that_exist(self) -> None:
        assert set(ONLY_FOR_FAMILY) <= set(Hyperparameters.model_fields)

    def test_one_kl_warmup(self) -> None:
        with pytest.raises(ValidationError, match="exclude each other"):
            Hyperparameters(kl_warmup=0.1, kl_warmup_epochs=2)

    def test_booleans_are_no_numbers(self) -> None:
        with pytest.raises(ValidationError):
            Hyperparameters(batch_size=True)


class TestParsing:
    def test_values_are_fixed_and_mappings_searched(self) -> None:
        fixed, domains = parse_parameters(
            {"lr": {"low": 1, "high": 2}, "beta": 1, "hidden": [8], "patience": None}
        )
        assert fixed == {"beta": 1.0, "hidden": [8], "patience": None}
        assert domains == {"lr": Range(low=1.0, high=2.0)}

    def test_the_type_of_the_hyperparameter_decides_on_integers(self) -> None:
        domains = searched(lr={"low": 1, "high": 2}, latent_dim={"low": 1, "high": 2})
        assert (domains["lr"].integer, domains["latent_dim"].integer) == (False, True)
        assert searched(patience={"low": 1, "high": 3})["patience"].integer

    def test_choices_take_the_type_of_the_hyperparameter(self) -> None:
        values = searched(lr={"choices": [1, 0.5]})["lr"].choices
        assert values == [1.0, 0.5]
        assert isinstance(values[0], float)
        assert searched(patience={"choices": [None, 3]})["patience"].choices == [None, 3]

    def test_the_order_of_the_file_does_not_matter(self) -> None:
        """Draws are made in the order of the domains, so it must be one for equal spaces."""
        raw = {
            "lr": {"low": 0.1, "high": 1.0},
            "momentum": {"low": 0.1, "high": 0.9, "when": {"optimizer": "sgd"}},
            "optimizer": {"choices": ["adam", "sgd"], "when": {"schedule": "cosine"}},
            "schedule": {"choices": ["cosine", "constant"]},
        }
        orders = {
            tuple(parse_parameters({name: raw[name] for name in names})[1])
            for names in itertools.permutations(raw)
        }
        assert len(orders) == 1
        names = orders.pop()
        assert names.index("schedule") < names.index("optimizer") < names.index("momentum")

    def test_conditions_on_fixed_parents_are_settled(self) -> None:
        domain = {"low": 0.1, "high": 0.9, "when": {"optimizer": "sgd"}}
        assert searched(optimizer="sgd", momentum=domain)["momentum"].when == {}

    def test_a_condition_may_wait_for_a_default(self) -> None:
        domain = {"low": 0.1, "high": 0.9, "when": {"optimizer": "adam"}}
        assert searched(lr=domain)["lr"].when == {}

    def test_a_kl_warmup_of_zero_goes_with_the_other(self) -> None:
        fixed, _ = parse_parameters({"kl_warmup": 0.0, "kl_warmup_epochs": 3})
        assert Hyperparameters(**fixed).kl_warmup_epochs == 3

    def test_a_searched_family_may_have_the_hyperparameters_of_each(self) -> None:
        domains = searched(
            family={"choices": ["mlp", "conv_pool"]},
            hidden={"choices": [[8], [4]], "when": {"family": "mlp"}},
            filters={"low": 8, "high": 32, "when": {"family": "conv_pool"}},
        )
        assert [name for name, d in domains.items() if d.active({"family": "mlp"})] == [
            "family",
            "hidden",
        ]


class TestConditions:
    DOMAIN = Choices(choices=[1], when={"optimizer": ["sgd", "rmsprop"], "schedule": "cosine"})

    @pytest.mark.parametrize(
        ("chosen", "active"),
        [
            ({"optimizer": "sgd", "schedule": "cosine"}, True),
            ({"optimizer": "rmsprop", "schedule": "cosine"}, True),
            ({"optimizer": "adam", "schedule": "cosine"}, False),
            ({"optimizer": "sgd", "schedule": "plateau"}, False),
            ({"schedule": "cosine"}, False),  # the parent does not exist either
        ],
    )
    def test_all_parents_must_agree(self, chosen: dict[str, Any], active: bool) -> None:
        assert self.DOMAIN.active(chosen) is active

    def test_a_list_is_one_value_inside_a_list(self) -> None:
        domain = Choices(choices=[1], when={"hidden": [[8], [4, 2]]})
        assert domain.active({"hidden": [8]})
        assert domain.active({"hidden": [4, 2]})
        assert not domain.active({"hidden": [2]})


class TestGrid:
    def test_both_ends_belong_to_a_range(self) -> None:
        assert Range(low=4, high=7, integer=True).grid() == [4, 5, 6, 7]
        assert Range(low=16, high=48, step=8, integer=True).grid() == [16, 24, 32, 40, 48]
        assert Range(low=0.5, high=1.5, step=0.25).grid() == [0.5, 0.75, 1.0, 1.25, 1.5]

    def test_rounding_neither_loses_the_upper_end_nor_passes_it(self) -> None:
        # 0.1 + 2 · 0.1 is above 0.3 in binary, and (0.7 - 0.1) / 0.1 is below 6.
        assert Range(low=0.1, high=0.3, step=0.1).grid()[-1] == 0.3
        values = Range(low=0.1, high=0.7, step=0.1).grid()
        assert len(values) == 7
        assert values == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])

    @pytest.mark.parametrize("domain", [Range(low=0.1, high=1), Range(low=1, high=9, log=True,
                                                                      integer=True)])  # fmt: skip
    def test_a_continuum_has_none(self, domain: Range) -> None:
        with pytest.raises(ValueError, match="a grid needs `choices` or a `step`"):
            domain.grid()

    def test_cells_are_the_product_without_parameters_that_do_not_exist(self) -> None:
        domains = searched(
            optimizer={"choices": ["adam", "sgd"]},
            momentum={"choices": [0.5, 0.9], "when": {"optimizer": "sgd"}},
            beta={"choices": [1.0, 2.0]},
        )
        cells = list(grid(domains))
        # adam: 2 values of beta; sgd: 2 of momentum × 2 of beta
        assert len(cells) == 6
        assert sorted(map(len, cells)) == [2, 2, 3, 3, 3, 3]
        assert len({digest(cell) for cell in cells}) == 6

    def test_no_domain_gives_one_empty_cell(self) -> None:
        assert list(grid({})) == [{}]


class TestSeeds:
    def test_every_part_counts_and_so_does_its_type(self) -> None:
        parts: list[tuple[Any, ...]] = [(0,), (1,), ("1",), (1, 2), (2, 1), (12,), (1.0,), (None,)]
        assert len({derive_seed(*each) for each in parts}) == len(parts)

    def test_seeds_fit_a_signed_64_bit_integer_and_fill_it(self) -> None:
        seeds = [derive_seed("x", number) for number in range(1000)]
        assert all(0 <= seed < 2**63 for seed in seeds)
        assert max(seeds) > 2**62 > min(seeds)

    def test_a_seed_is_the_same_for_ever(self) -> None:
        # Studies of earlier versions would not go on as themselves otherwise.
        assert trial_seed(0, 7, fresh=False) == 6750413982524036008

    def test_the_order_of_keys_does_not_change_a_digest(self) -> None:
        assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
        assert digest({"a": 1}) != digest({"a": 2})
