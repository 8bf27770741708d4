"""docs/search-space.md names every key of a search space, with its default and its meaning."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import pytest
import yaml
from pydantic.fields import FieldInfo

from pipeline.settings.hyperparameters import Hyperparameters
from pipeline.settings.search_section import Search
from pipeline.settings.sections import Data, Evaluate, Model, Render, Retrain
from pipeline.settings.space import parse_space

PAGE = (Path(__file__).parent.parent / "docs" / "search-space.md").read_text()
SECTIONS: dict[str, Any] = {
    "data": Data,
    "model": Model,
    "parameters": Hyperparameters,
    "search": Search,
    "retrain": Retrain,
    "evaluate": Evaluate,
    "render": Render,
}


def row(name: str, field: FieldInfo) -> str:
    """The line of a key, but for what the page adds to its meaning."""
    if field.is_required():
        return f"| `{name}` | required |"
    value = field.get_default(call_default_factory=True)
    if hasattr(value, "model_dump"):
        return f"| `{name}` | `{json.dumps(value.model_dump())}` |"
    return f"| `{name}` | `{json.dumps(value)}` |"


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_has_a_line(section: str) -> None:
    part = PAGE.split(f"\n## `{section}`\n")[1].split("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("| `")]
    fields = SECTIONS[section].model_fields
    assert len(lines) == len(fields)
    for line, (name, field) in zip(lines, fields.items(), strict=True):
        assert line.startswith(row(name, field))
        assert (field.description or "") in line
        assert line.count(" |") == 3
        assert line.split("|")[3].strip(), f"{name} has no meaning"


@pytest.mark.parametrize("section", SECTIONS)
def test_every_value_that_a_key_may_have_is_named(section: str) -> None:
    part = PAGE.split(f"\n## `{section}`\n")[1].split("\n## ")[0]
    for name, field in SECTIONS[section].model_fields.items():
        known = get_args(field.annotation)
        if get_origin(field.annotation) in (Union, UnionType):
            known = tuple(chain.from_iterable(map(get_args, known)))
        for value in known:
            if isinstance(value, str):
                line = next(each for each in part.splitlines() if each.startswith(f"| `{name}`"))
                assert value in line


def test_the_annotated_space_is_a_space() -> None:
    text = PAGE.split("```yaml\n")[1].split("```")[0]
    space = parse_space("page", yaml.safe_load(text), "docs/search-space.md")
    assert "momentum" in space.searched
