"""Searches propose and prune what they did when PROPOSAL_SEMANTICS was raised."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from golden_proposals import FILE, PRUNERS, SEARCHES, arithmetic, compute, differences

from pipeline.settings.search_section import Search
from pipeline.study.identity import PROPOSAL_SEMANTICS
from pipeline.study.search.numerics import PROPOSALS

GOLDEN = json.loads(FILE.read_text())


@pytest.fixture(scope="module")
def computed() -> dict[str, list[Any]]:
    return compute()


def test_the_proposals_are_those_of_the_present_semantics() -> None:
    assert GOLDEN["semantics"] == PROPOSAL_SEMANTICS, "record anew by `make golden`"


@pytest.mark.parametrize("name", GOLDEN["recorded"])
def test_a_search_is_what_was_recorded(name: str, computed: dict[str, list[Any]]) -> None:
    now = arithmetic()
    exact = GOLDEN["arithmetic"] == now
    found = differences(name, GOLDEN["recorded"][name], computed[name], exact=exact)
    assert not found, (
        f"`{name}` here ({now[PROPOSALS]}; recorded with {GOLDEN['arithmetic'][PROPOSALS]}) is"
        f" another search ({found[0]}): raise PROPOSAL_SEMANTICS in pipeline/study/identity.py and"
        " record anew by `make golden`, or find the mistake"
    )


def test_every_sampler_and_pruner_is_recorded(computed: dict[str, list[Any]]) -> None:
    assert set(GOLDEN["recorded"]) == set(computed)
    for kind, settings in (("sampler", SEARCHES), ("pruner", PRUNERS)):
        names = get_args(Search.model_fields[kind].annotation)
        names = names if kind == "pruner" else get_args(names[0])  # the others are one's own
        assert {each.get(kind) for each in settings.values()} == set(names)


def test_a_trial_more_or_another_one_is_noticed() -> None:
    then = GOLDEN["recorded"]["tpe"]
    assert differences("tpe", then, then[:-1], exact=True)
    assert differences("tpe", then, [*then[:-1], []], exact=True)
