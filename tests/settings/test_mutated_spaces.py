"""Search spaces that nobody wrote: each is valid or earns one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from steady import STEADY
from test_space_errors import EVERYTHING, places, put

from pipeline.errors import UserError
from pipeline.settings.hyperparameters import Hyperparameters
from pipeline.settings.space import Space, load_space, parse_space

WORDS = ["low", "high", "log", "step", "choices", "when", "a b", "ё", "\0", "1e-3", ".nan", "~"]
NAMES = st.sampled_from([*Space.valid_keys(), *Hyperparameters.model_fields, *WORDS])
EXTREME = st.sampled_from(
    [0, -1, 1, 10**6 + 1, 2**63, -(2**63), 10**400, 5e-324, 1.7e308, float("nan"), float("inf")]
)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | NAMES | st.text(max_size=5) | EXTREME,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
CHANGES = st.lists(
    st.tuples(
        st.integers(0, 99), st.sampled_from(["drop", "rename", "double", "put"]), NAMES, JUNK
    ),
    min_size=1,
    max_size=4,
)
SPLICES = st.lists(
    st.tuples(st.integers(0, 800), st.integers(0, 9), st.binary(max_size=4)), min_size=1, max_size=3
)
FAST, SLOW = 120, 1500  # examples


def change(raw: dict[str, Any], where: int, how: str, name: str, value: Any) -> None:
    """Drops, renames, doubles or replaces one of the values in nested mappings and lists."""
    found = places(raw)
    if not found:
        return
    path = found[where % len(found)]
    parent: Any = raw
    for key in path[:-1]:
        parent = parent[key]
    if how == "put":
        put(raw, path, value)
        return
    if isinstance(parent, dict) and how != "drop":
        parent[name] = parent[path[-1]]
    if how != "double":
        parent.pop(path[-1], None) if isinstance(parent, dict) else parent.pop(path[-1])


def of_one_line(error: UserError) -> bool:
    return "\n" not in str(error) and len(str(error)) < 1500


def check_changes(changes: list[tuple[int, str, str, Any]]) -> None:
    raw = yaml.safe_load(EVERYTHING)
    for each in changes:
        change(raw, *each)
    try:
        assert parse_space("x", raw, "x.yaml").name == "x"
    except UserError as error:
        assert of_one_line(error), str(error)  # noqa: PT017 (some are valid)


def check_splices(root: Path, splices: list[tuple[int, int, bytes]]) -> None:
    text = EVERYTHING.encode()
    for start, length, new in splices:
        text = text[:start] + new + text[start + length :]
    (root / "search_spaces").mkdir(parents=True, exist_ok=True)
    (root / "search_spaces" / "x.yaml").write_bytes(text)
    try:
        assert load_space(root, "x").name == "x"
    except UserError as error:
        assert of_one_line(error), str(error)  # noqa: PT017


@given(CHANGES)
@settings(STEADY, max_examples=FAST)
def test_changed_values(changes: list[tuple[int, str, str, Any]]) -> None:
    check_changes(changes)


@pytest.mark.slow
@given(CHANGES)
@settings(STEADY, max_examples=SLOW)
def test_many_changed_values(changes: list[tuple[int, str, str, Any]]) -> None:
    check_changes(changes)


@given(SPLICES)
@settings(STEADY, max_examples=FAST)
def test_changed_bytes(
    tmp_path_factory: pytest.TempPathFactory, splices: list[tuple[int, int, bytes]]
) -> None:
    check_splices(tmp_path_factory.getbasetemp() / "splices", splices)


@pytest.mark.slow
@given(SPLICES)
@settings(STEADY, max_examples=SLOW)
def test_many_changed_bytes(
    tmp_path_factory: pytest.TempPathFactory, splices: list[tuple[int, int, bytes]]
) -> None:
    check_splices(tmp_path_factory.getbasetemp() / "splices", splices)
