"""Strict reading of what a person wrote: YAML without surprises, complaints in one line."""

from __future__ import annotations

import difflib
import reprlib
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import UserError

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlevel = 2


class Section(BaseModel):
    """A mapping in a file. Unknown keys, values of another type, infinities and NaN are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def valid_keys(cls) -> list[str]:
        """The keys that a person may write."""
        return list(cls.model_fields)


S = TypeVar("S", bound=Section)


class _StrictLoader(yaml.SafeLoader):
    """Keys are text, and none is given twice."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                shown = key.value if isinstance(key, yaml.ScalarNode) else key.id
                problem = f"a key must be text, but got `{shown}`: put it in quotes"
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


def validated(section: type[S], raw: dict[str, Any], where: str) -> S:
    """The section of a file's content; `where` names the file in the UserError."""
    try:
        return section(**raw)
    except ValidationError as error:
        raise UserError(_one_line(section, error, where)) from None


def unknown_key(section: Any, location: tuple[str | int, ...], where: str) -> str:
    """The complaint about a key that a section or one inside it does not have."""
    for part in location[:-1]:
        section = section.model_fields[part].annotation
    near = difflib.get_close_matches(str(location[-1]), section.valid_keys(), n=1)
    hint = f"did you mean `{near[0]}`? " if near else ""
    path = ".".join(str(part) for part in location)
    return f"{where}: unknown key `{path}`: {hint}valid keys: {', '.join(section.valid_keys())}"


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


def _one_line(section: type[Section], error: ValidationError, where: str) -> str:
    first, *others = error.errors()
    if first["type"] == "extra_forbidden":
        return unknown_key(section, first["loc"], where)
    key = _key(first)
    if first["type"] == "missing":
        return f"{where}: {key}: is required: add it"
    same = [other for other in others if _key(other) == key]
    return f"{where}: {key + ': ' if key else ''}{explain(first, *same)}"


def _key(detail: Any) -> str:
    # Pydantic names the alternatives of a union too.
    names = (str(part) for part in detail["loc"])
    return ".".join(name for name in names if not name.startswith(("float", "literal[")))


def _rule(detail: Any) -> str:
    if detail["type"] in ("model_type", "dict_type"):
        return "must be a mapping"
    if detail["type"] == "too_short":
        return f"must have at least {detail['ctx']['min_length']} entry"
    return detail["msg"].replace("Input should be", "must be", 1)


def _position(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return str(error).splitlines()[0]
    texts = (error.context, error.problem)  # type: ignore[attr-defined]
    return f"line {mark.line + 1}: {', '.join(text for text in texts if text)}"
