"""search_spaces/NAME.yaml, all that changes the answer, as a validated object."""

from __future__ import annotations

import ast
import difflib
import math
import os
import re
from pathlib import Path
from typing import Any

from pydantic import Field

from pipeline.errors import UserError
from pipeline.settings.hyperparameters import Domain, Hyperparameters, Value, grid
from pipeline.settings.observations import found
from pipeline.settings.own_family import kind_of, named
from pipeline.settings.own_files import (
    SOURCES,
    Read,
    Source,
    check_defined,
    files_of,
    is_own,
    nowhere,
    reader,
)
from pipeline.settings.parameters import parse_parameters
from pipeline.settings.search_section import Constraints, Search
from pipeline.settings.sections import Data, Evaluate, Model, Render, Retrain
from pipeline.settings.validation import (
    Section,
    did_you_mean,
    read_yaml,
    show,
    unknown_key,
    validated,
    whole_hint,
)

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
MAX_CELLS = 100_000
# What else than a family may be a file of one's own: its section and key, and what it defines.
OWN = (
    ("model", "likelihood", ast.ClassDef),
    ("data", "reader", ast.FunctionDef),
    ("search", "sampler", ast.ClassDef),
    ("evaluate", "metrics", ast.FunctionDef),
)


class Space(Section):
    """One complete sweep."""

    name: str
    data: Data
    model: Model = Model()
    fixed: dict[str, Value]
    searched: dict[str, Domain]
    sources: dict[str, Source] = Field(
        {}, description="the Python files that it names: their content"
    )
    search: Search = Search()
    retrain: Retrain = Retrain()
    evaluate: Evaluate = Evaluate()
    render: Render = Render()

    @classmethod
    def valid_keys(cls) -> list[str]:
        """The sections of the file; `parameters` is split into fixed and searched."""
        return ["data", "model", "parameters", "search", "retrain", "evaluate", "render"]

    def section(self, name: str) -> dict[str, Any]:
        """The values in force of a section, as JSON holds them; those of `parameters` that are not
        given are left out. `sources` of a section are the Python files that it names, if any."""
        if name != "parameters":
            values: dict[str, Any] = getattr(self, name).model_dump(mode="json")
            if files := self.files(name):
                values[SOURCES] = {file: self.sources[file].model_dump() for file in files}
            return values
        searched = {key: domain.model_dump(mode="json") for key, domain in self.searched.items()}
        return {"searched": searched, "fixed": self.fixed}

    def files(self, section: str) -> list[str]:
        """The Python files that a section names; those of families are of `model`."""
        names: dict[str, list[Any]] = {
            "data": [self.data.reader],
            "model": [*self._families, self.model.likelihood],
            "search": [self.search.sampler],
            "evaluate": self.evaluate.metrics or [],
        }
        return files_of(names.get(section, []))

    @property
    def _families(self) -> list[str]:
        family = self.searched.get("family", self.fixed.get("family"))
        return _families(family, self.search.fallback or {})

    @classmethod
    def homes(cls, key: str) -> list[str]:
        """The sections that have the key; `parameters` has the hyperparameters."""
        return [*(["parameters"] if key in Hyperparameters.model_fields else []),
                *super().homes(key)]  # fmt: skip

    @property
    def constrained(self) -> bool:
        """Whether there are settings that are not to be tried."""
        return self.search.constraints != Constraints()

    @property
    def kind(self) -> type[Hyperparameters]:
        """The hyperparameters that a trial of it has."""
        return kind_of(self._families, self.sources)

    def reads(self, family: str, name: str) -> bool:
        """Whether a hyperparameter says anything to a model of this family."""
        return family in self.kind.readers.get(name, (family,))

    def hyperparameters(self, chosen: dict[str, Value]) -> Hyperparameters:
        """The full setting of a trial: chosen over fixed over defaults."""
        return self.kind(**{**self.fixed, **chosen})

    def record(self, chosen: dict[str, Value]) -> dict[str, Any]:
        """The same behind the section `model`, as plain values: what makes a training its own."""
        return {**self.section("model"), **self.hyperparameters(chosen).model_dump()}


def load_space(root: Path, name: str) -> Space:
    """Reads and validates search_spaces/NAME.yaml. Raises UserError."""
    folder = root / "search_spaces"
    known = space_names(root)
    if not NAME.fullmatch(name):
        raise UserError(
            "a sweep's name is lower-case letters, digits, `-` and `_` (at most 64), but got"
            f" {name!r:.80}{_meant(name, known)}"
        )
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(
            f"search_spaces/{name}.yaml does not exist: {hint}there are"
            f" {', '.join(known) or 'none'} in {folder}"
        )
    where = f"search_spaces/{name}.yaml"
    space = parse_space(name, read_yaml(folder / f"{name}.yaml", where), where, reader(root))
    if (given := space.search.observations) is None:
        return space
    table = found(given, root, where)
    search = space.search.model_copy(update={"observations": table})
    return space.model_copy(update={"search": search})


def _meant(name: str, known: list[str]) -> str:
    """The remedy where a sweep's file was named instead of the sweep."""
    stem = Path(name).stem.lower()
    return f": did you mean {stem}?" if stem in known and stem != name else ""


def space_names(root: Path) -> list[str]:
    """The sweeps of a checkout. A file's name that is not UTF-8 is one that no sweep may have."""
    files = (root / "search_spaces").glob("*.yaml")
    return sorted(os.fsencode(file.stem).decode(errors="replace") for file in files)


def parse_space(name: str, raw: dict[str, Any], where: str, read: Read = nowhere) -> Space:
    """The validated sweep of a file's content; `where` names the file in errors, and `read` gives
    the Python files that it names."""
    if unknown := [key for key in raw if key not in Space.valid_keys()]:
        raise UserError(unknown_key(Space, (unknown[0],), where))
    sections = dict(raw)
    parameters = sections.pop("parameters", {})
    if not isinstance(parameters, dict):
        raise UserError(f"{where}: parameters: must be a mapping, but got {show(parameters)}")
    try:
        families = _families(parameters.get("family"), _fallback(sections.get("search")))
        sources = {file: read(file) for file in files_of(families)}
        kind = kind_of(families, sources)
    except ValueError as error:
        raise UserError(f"{where}: parameters.family: {error}") from None
    sources |= _own(sections, read, where)
    for key in parameters:
        hint = "" if key in Hyperparameters.model_fields else whole_hint(Space, key)
        if hint and "`parameters`" not in hint:
            raise UserError(f"{where}: parameters.{key}: {hint}move it there")
    try:
        fixed, searched = parse_parameters(parameters, kind)
    except ValueError as error:
        raise UserError(f"{where}: parameters.{error}") from None
    sections |= {"name": name, "fixed": fixed, "searched": searched, "sources": sources}
    space = validated(Space, sections, where)
    _check_space(space, where)
    return space


def _own(sections: dict[str, Any], read: Read, where: str) -> dict[str, Source]:
    """The files that sections name, which are not checked yet. Raises UserError."""
    sources: dict[str, Source] = {}
    for section, key, kind in OWN:
        given = sections.get(section)
        found = given.get(key) if isinstance(given, dict) else None
        names: list[str] = list(filter(is_own, found if isinstance(found, list) else [found]))
        try:
            sources |= {file: read(file) for file in files_of(names)}
            for name in names:
                check_defined(name, sources, kind)
        except ValueError as error:
            raise UserError(f"{where}: {section}.{key}: {error}") from None
    return sources


def _families(family: Any, fallback: dict[str, Any]) -> list[str]:
    """The families that a space names, those of its own files among them."""
    return [*named(family), *named(fallback.get("family"))]


def _fallback(search: Any) -> dict[str, Any]:
    """The fallback of a section that is not checked yet."""
    found = search.get("fallback") if isinstance(search, dict) else None
    return found if isinstance(found, dict) else {}


def _check_space(space: Space, where: str) -> None:
    """The rules that span sections."""
    search = space.search
    if space.data.name == "digits" and space.model.likelihood == "discretized_logistic":
        raise UserError(
            f"{where}: model.likelihood: discretized_logistic needs 8-bit values, but digits has"
            " 17 grey levels: use bernoulli, gaussian or another data set"
        )
    settings = (space.fixed, search.fallback or {})
    averaged = any(setting.get("averaging") is not None for setting in settings)
    if space.model.sigma == "optimal" and (averaged or "averaging" in space.searched):
        raise UserError(
            f"{where}: parameters.averaging: an optimal sigma is that of the moving weights, not of"
            " their average: remove averaging or give sigma a value"
        )
    if search.sampler == "grid":
        _check_grid(space, where)
    if search.sampler == "cmaes" and space.constrained:
        raise UserError(
            f"{where}: search.constraints: cmaes cannot be told of settings that are not tried: use"
            " tpe, gp, random or grid"
        )
    if search.sampler == "cmaes" and search.observations:
        raise UserError(
            f"{where}: search.observations: cmaes learns from what it has asked for itself alone:"
            " use tpe, gp, random or grid"
        )
    for number, given in enumerate(search.enqueue):
        _check_enqueued(space, given, f"{where}: search.enqueue.{number}")
    if search.sampler == "cmaes" and len(search.objectives) == 2:
        raise UserError(f"{where}: search.sampler: cmaes has one objective: use tpe, random or gp")
    if search.fallback is not None:
        try:
            _, searched = parse_parameters({**space.fixed, **search.fallback}, space.kind)
        except ValueError as error:
            raise UserError(f"{where}: search.fallback.{error}") from None
        if searched:
            raise UserError(
                f"{where}: search.fallback: must hold values, but got a range or choices for"
                f" {', '.join(searched)}"
            )


def _check_enqueued(space: Space, given: dict[str, Any], where: str) -> None:
    """A setting to try first must be one that could be proposed."""
    for name, value in given.items():
        domain = space.searched.get(name)
        if domain is None:
            valid = ", ".join(space.searched) or "none"
            hint = did_you_mean(name, list(space.searched))
            raise UserError(f"{where}.{name}: is not searched: {hint}searched are {valid}")
        if not domain.holds(value):
            raise UserError(
                f"{where}.{name}: must be a value of its range or choices, but got {show(value)}"
            )


def _check_grid(space: Space, where: str) -> None:
    sizes = []
    for name, domain in space.searched.items():
        try:
            sizes.append(len(domain.grid()))
        except ValueError as error:
            raise UserError(f"{where}: parameters.{name}: {error}") from None
    if math.prod(sizes) > MAX_CELLS:
        raise UserError(
            f"{where}: search.sampler: a grid has at most {MAX_CELLS} cells, but got"
            f" {math.prod(sizes)}: use fewer choices, larger steps or another sampler"
        )
    cells = sum(1 for _ in grid(space.searched))
    if space.search.trials > cells:
        raise UserError(
            f"{where}: search.trials: the grid has {cells} cells, but got {space.search.trials}:"
            f" set at most {cells}"
        )
