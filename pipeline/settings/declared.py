"""The hyperparameters that a family declares, read from its source without running it."""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Literal, TypeGuard

from pydantic import Field

NUMBERS: dict[str, type] = {"int": int, "float": float}
LISTS = ("list[int]", "Sequence[int]")
KEYWORDS = {"default", "meaning", "low", "high", "choices"}


@dataclass(frozen=True)
class Declared:
    """One hyperparameter: what pydantic checks it by, its default, its meaning, and all of it as
    it is written."""

    kind: Any = field(compare=False)
    default: Any
    meaning: str
    written: str


@cache
def read_declared(text: str, name: str) -> dict[str, Declared]:
    """The hyperparameters of the class `name` in a Python source, in their order.

    Raises ValueError with the line's number, or SyntaxError.
    """
    classes = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)}
    if name not in classes:
        raise ValueError(f"has no class {name}: its classes are {', '.join(classes) or 'none'}")
    node = classes[name]
    if not any("dataclass" in ast.unparse(each) for each in node.decorator_list):
        raise ValueError(f"line {node.lineno}: class {name} must be a @dataclass(frozen=True)")
    found = {}
    for entry in node.body:
        if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name):
            try:
                found[entry.target.id] = _declared(entry)
            except ValueError as error:
                raise ValueError(f"line {entry.lineno}: {entry.target.id}: {error}") from None
    return found


def _declared(entry: ast.AnnAssign) -> Declared:
    call = entry.value
    if not isinstance(call, ast.Call) or not ast.unparse(call.func).endswith("hyperparameter"):
        raise ValueError(
            "a field is a hyperparameter: write `= hyperparameter(DEFAULT, meaning=…, low=…,"
            " high=…)`"
        )
    try:
        given = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
        if call.args:
            given["default"] = ast.literal_eval(call.args[0])
    except (ValueError, TypeError):
        raise ValueError("what is declared must be written out, not computed") from None
    if unknown := given.keys() - KEYWORDS:
        raise ValueError(f"hyperparameter() has no `{min(unknown)}`: use {', '.join(KEYWORDS)}")
    if "default" not in given or not isinstance(given.get("meaning"), str):
        raise ValueError("a hyperparameter has a default and a `meaning`: add them")
    annotation = ast.unparse(entry.annotation)
    kind = _kind(annotation, given)
    return Declared(
        kind, given["default"], given["meaning"], f"{annotation} {sorted(given.items())}"
    )


def _kind(annotation: str, given: dict[str, Any]) -> Any:
    """The type as pydantic takes it."""
    name, _, rest = annotation.partition(" | ")
    optional = rest == "None"
    kind: Any
    if name == "bool":
        kind = bool
    elif name == "str":
        choices = given.get("choices")
        if not isinstance(choices, list | tuple) or not all(isinstance(c, str) for c in choices):
            raise ValueError("text needs `choices`: list them")
        kind = Literal[tuple(choices)]
    elif (name in NUMBERS or name in LISTS) and (optional or not rest):
        low, high = given.get("low"), given.get("high")
        if not _is_number(low) or not _is_number(high) or not low <= high:
            raise ValueError("a number has a range: give `low` and `high`")
        of = NUMBERS.get(name, int)
        if of is int and (low, high) != (low // 1, high // 1):
            raise ValueError("an integer has whole numbers as `low` and `high`: give such")
        kind = Annotated[of, Field(ge=low, le=high)]
        if name in LISTS:
            kind = Annotated[list[kind], Field(min_length=1)]
    else:
        raise ValueError(
            "a hyperparameter is int, float, bool, str or list[int] (or `| None`), but got"
            f" {annotation}"
        )
    return kind | None if optional else kind


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
