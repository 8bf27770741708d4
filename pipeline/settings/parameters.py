"""The `parameters` section of a search space: fixed values and searched domains, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from pipeline.settings.hyperparameters import (
    Choices,
    Domain,
    Hyperparameters,
    Range,
    Value,
    grid,
    one_of,
)
from pipeline.settings.validation import did_you_mean, explain, is_number_as_text, show

Kind = type[Hyperparameters]


@dataclass(frozen=True)
class _Entries:
    """Those of a section that are right by themselves."""

    kind: Kind
    fixed: dict[str, Value]
    searched: dict[str, Domain]

    def possible(self, name: str) -> list[Value]:
        """All values of a hyperparameter that is no range."""
        if name in self.searched:
            return self.searched[name].grid()
        return [self.fixed.get(name, self.kind.model_fields[name].default)]


def parse_parameters(
    raw: dict[str, Any], kind: Kind = Hyperparameters
) -> tuple[dict[str, Value], dict[str, Domain]]:
    """Splits the `parameters` section into fixed values and searched domains of `kind`.

    Raises ValueError, whose message starts with the hyperparameter's name.
    """
    fixed: dict[str, Value] = {}
    searched: dict[str, Domain] = {}
    for name, entry in raw.items():
        if name not in kind.model_fields:
            hint = did_you_mean(name, list(kind.model_fields))
            valid = ", ".join(kind.model_fields)
            raise ValueError(f"{name}: unknown hyperparameter: {hint}valid: {valid}")
        try:
            if isinstance(entry, dict):
                searched[name] = _domain(kind, name, entry)
            else:
                fixed[name] = _checked(kind, name, entry)
        except ValidationError as error:
            detail = error.errors()[0]
            key = ".".join(str(part) for part in (name, *detail["loc"]))
            raise ValueError(f"{key}: {explain(detail)}") from None
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    entries = _Entries(kind, fixed, searched)
    _check_kl_warmup(entries)
    _check_families(entries)
    _check_conditions(entries)
    searched = _in_order(kind, _without_settled_conditions(searched))
    _check_reachable(searched)
    return fixed, searched


def _domain(kind: Kind, name: str, entry: dict[str, Any]) -> Domain:
    if "choices" in entry:
        _check_keys(entry, {"choices", "when", "centre"})
        known = dict(entry)
        if isinstance(entry["choices"], list):
            known["choices"] = [_checked(kind, name, value) for value in entry["choices"]]
        if "centre" in entry:
            known["centre"] = _checked(kind, name, entry["centre"])
        return Choices(**known)
    if not {"low", "high"} <= entry.keys():
        wanted = ["low", "high", "choices"]
        hints = [hint for key in entry if key not in wanted if (hint := did_you_mean(key, wanted))]
        raise ValueError(
            f"give a value, `low` and `high`, or `choices`, but got {show(entry)}"
            f"{': ' if hints else ''}{''.join(hints).strip()}"
        )
    _check_keys(entry, {"low", "high", "log", "step", "when", "centre"})
    ends = {end: _checked(kind, name, entry[end]) for end in ("low", "high")}
    if "centre" in entry:
        _checked(kind, name, entry["centre"])
    for end in ends.values():
        if isinstance(end, bool) or not isinstance(end, int | float):
            raise ValueError(f"a range needs numbers, but got {show(end)}: use `choices`")
    integer, step = isinstance(ends["low"], int), entry.get("step")
    if integer and isinstance(step, float) and not step.is_integer():
        raise ValueError(f"the step of an integer must be an integer, but got {step:g}")
    return Range(**{**entry, **ends, "integer": integer})


def _check_keys(entry: dict[str, Any], valid: set[str]) -> None:
    if unknown := sorted(entry.keys() - valid):
        hint = did_you_mean(unknown[0], sorted(valid))
        raise ValueError(f"unknown key `{unknown[0]}`: {hint}valid: {', '.join(sorted(valid))}")


def _checked(kind: Kind, name: str, value: Value) -> Value:
    """The value as the hyperparameter's own type. Raises ValueError with rule and value."""
    try:
        return getattr(kind(**{name: value}), name)
    except ValidationError as error:
        raise ValueError(explain(error.errors()[0]) + _hint(kind, name, value)) from None


def _hint(kind: Kind, name: str, value: Value) -> str:
    """What a person who wrote a value of the wrong type may have meant."""
    if is_number_as_text(value):
        return ": remove the quotes"
    if name == "family" and isinstance(value, str):
        return ": or name your own as FILE.py:CLASS"
    if (
        not isinstance(value, list)
        or not value
        or not all(_fits(kind, name, each) for each in value)
    ):
        return ""
    if len(value) == 1:
        return f": write `{name}: {show(value[0])}`"
    hint = f": to search these write `{name}: {{choices: {show(value)}}}`"
    numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in value)
    if numbers and len(value) == 2 and value[0] < value[1]:
        hint += f", or a range `{name}: {{low: {value[0]}, high: {value[1]}}}`"
    return hint


def _fits(kind: Kind, name: str, value: Value) -> bool:
    try:
        kind(**{name: value})
    except ValidationError:
        return False
    return True


def _check_kl_warmup(given: _Entries) -> None:
    names = ("kl_warmup", "kl_warmup_epochs")
    if all(isinstance(given.searched.get(n), Range) or any(given.possible(n)) for n in names):
        raise ValueError("kl_warmup: excludes kl_warmup_epochs: give one of the two")


def _check_families(given: _Entries) -> None:
    families = given.possible("family")
    for name in [*given.fixed, *given.searched]:
        readers = given.kind.readers.get(name)
        if readers and not set(families) & set(readers):
            raise ValueError(
                f"{name}: read only by family {' or '.join(readers)}, but the family is"
                f" {' or '.join(families)}: remove it"
            )


def _check_conditions(given: _Entries) -> None:
    for name, domain in given.searched.items():
        for parent, wanted in domain.when.items():
            if parent not in given.kind.model_fields:
                raise ValueError(f"{name}: `when` names the unknown hyperparameter `{parent}`")
            if parent == name:
                raise ValueError(f"{name}: `when` may not name {name} itself")
            if isinstance(given.searched.get(parent), Range):
                raise ValueError(
                    f"{name}: `when` needs a parent with choices, but {parent} is a range"
                )
            possible = given.possible(parent)
            if not one_of(wanted):
                raise ValueError(
                    f"{name}: `when` lists no value of {parent}: add one of {possible}"
                )
            if never := [value for value in one_of(wanted) if value not in possible]:
                raise ValueError(
                    f"{name}: `when` waits for {parent} = {show(never[0])}, which is never chosen;"
                    f" possible: {possible}"
                )


def _check_reachable(searched: dict[str, Domain]) -> None:
    parents = {parent for domain in searched.values() for parent in domain.when}
    cells = list(grid({name: domain for name, domain in searched.items() if name in parents}))
    for name, domain in searched.items():
        if not any(domain.active(cell) for cell in cells):
            raise ValueError(f"{name}: `when` asks for {domain.when}, which no trial has at once")


def _without_settled_conditions(searched: dict[str, Domain]) -> dict[str, Domain]:
    """Drops conditions on parents that are not searched: the check has found that they hold."""
    return {
        name: domain.model_copy(
            update={"when": {k: v for k, v in domain.when.items() if k in searched}}
        )
        for name, domain in searched.items()
    }


def _in_order(kind: Kind, searched: dict[str, Domain]) -> dict[str, Domain]:
    """The domains in the order of the fields, but parents first.

    The order of the file must not matter: proposals are drawn in this one.
    """
    ordered: dict[str, Domain] = {}
    waiting = {name: searched[name] for name in kind.model_fields if name in searched}
    while waiting:
        ready = [name for name, domain in waiting.items() if domain.when.keys() <= ordered.keys()]
        if not ready:
            raise ValueError(f"{next(iter(waiting))}: the `when` clauses form a circle")
        ordered.update({name: waiting.pop(name) for name in ready})
    return ordered
