"""Strict reading of what a person wrote: YAML without surprises, complaints in one line."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import UserError

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlevel = 2


class _StrictLoader(yaml.SafeLoader):
    """Keys are text, and none is given twice."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                problem = f"a key must be text, but got `{key.value}`: put it in quotes"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            if key.value in seen:
                problem = f"the key `{key.value}` is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return node


def read_yaml(path: Path, where: str) -> dict[str, Any]:
    """The mapping in a YAML file, {} for an empty one; `where` names it in the UserError."""
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _StrictLoader)
    except OSError as error:
        raise UserError(f"{where}: cannot be read: {error.strerror}") from None
    except RecursionError:
        raise UserError(f"{where}: is nested too deeply: flatten it") from None
    except (yaml.YAMLError, ValueError, LookupError, AttributeError) as error:
        # PyYAML lets the last three through where a tag does not fit its value.
        raise UserError(f"{where}: is not valid YAML: {_position(error)}") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise UserError(f"{where}: must be a mapping of keys to values, but got {show(raw)}")
    return raw


def explain(*details: Any) -> str:
    """Rule and value of pydantic's error details on one key (several: a union's alternatives)."""
    first = details[0]
    if first["type"] == "value_error":
        return first["msg"].removeprefix("Value error, ")
    rules = [_rule(detail) for detail in details]
    rule = " or ".join([rules[0], *(rule.removeprefix("must be ") for rule in rules[1:])])
    return f"{rule}, but got {show(first['input'])}"


def show(value: Any) -> str:
    """A value in an error message: its repr, shortened."""
    return _SHORT.repr(value)


def _rule(detail: Any) -> str:
    if detail["type"] in ("model_type", "dict_type"):
        return "must be a mapping"
    return detail["msg"].replace("Input should be", "must be", 1)


def _position(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return str(error).splitlines()[0]
    return f"line {mark.line + 1}: {error.problem}"  # type: ignore[attr-defined]
