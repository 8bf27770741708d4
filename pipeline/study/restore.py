"""A study's search space, written back from what the ledger keeps of it."""

from __future__ import annotations

from typing import Any

import yaml

from pipeline.errors import UserError
from pipeline.settings.hyperparameters import Hyperparameters
from pipeline.settings.own_files import SOURCES, kept
from pipeline.settings.space import Space, parse_space
from pipeline.study.identity import Study, candidate_study, changes, search_study

WIDTH = 100  # characters of a line


def restored(name: str, study: str, spec: dict[str, Any], rest: dict[str, Any]) -> Space:
    """The space that has this study again.

    `spec` is what the study's identity is made of, `rest` what it leaves out (see
    `pipeline.study.receipt.left_out`). Raises UserError if this version of the program makes
    another study of it, whose trials are not comparable.
    """
    space = parse_space(name, as_file(spec, rest), f"study {study}", kept(_recorded(spec, rest))[1])
    made = study_of(space, spec)
    if made.id != study or made.spec != spec:
        why = "; ".join(changes(spec, made.spec)) or "its record was altered"
        raise UserError(
            f"study {study} is another one for this version of the program ({why}): check out the"
            " commit that its trials name (`python -m pipeline where RUN_ID`)"
        )
    return space


def study_of(space: Space, spec: dict[str, Any]) -> Study:
    """The study of a space whose specification is of the same kind and data as `spec`."""
    if "searched" in spec:
        return search_study(space, spec["data"])
    return candidate_study(space, spec["data"], {})


def as_file(spec: dict[str, Any], rest: dict[str, Any]) -> dict[str, Any]:
    """The content of a search_spaces file; what has its default is left out of `parameters`."""
    sections = kept(_recorded(spec, rest))[0]
    if "searched" in spec:
        domains = {name: _domain(domain) for name, domain in spec["searched"].items()}
        sections["parameters"] = _set(spec["fixed"]) | domains
    else:  # of a candidate: its one setting
        pruner = {"pruner": "none"} if len(spec["objectives"]) > 1 else {}
        seeded = {"seed": spec["seed"], "objectives": spec["objectives"], **pruner}
        sections["parameters"], sections["search"] = _set(spec["parameters"]), seeded
        sections["retrain"] = {**rest.get("retrain", {}), "epochs": spec["epochs"]}
    return {key: sections[key] for key in Space.valid_keys() if sections.get(key)}


def _recorded(spec: dict[str, Any], rest: dict[str, Any]) -> dict[str, Any]:
    """The sections that are kept of a study, with the files that they name."""
    search = {**spec.get("search", {}), **rest.get("search", {})}
    return {**rest, "model": spec["model"], "search": search}


def _sources(spec: dict[str, Any], rest: dict[str, Any]) -> dict[str, Any]:
    sections = _recorded(spec, rest).values()
    return {file: source for each in sections for file, source in each.get(SOURCES, {}).items()}


def space_text(name: str, study: str, spec: dict[str, Any], rest: dict[str, Any]) -> str:
    """search_spaces/NAME.yaml of a study. Raises UserError as `restored` does."""
    restored(name, study, spec, rest)
    sections = {
        key: {name: value for name, value in section.items() if value is not None}
        if key != "parameters"
        else section
        for key, section in as_file(spec, rest).items()
    }
    text = yaml.safe_dump(sections, sort_keys=False, default_flow_style=None, width=WIDTH)
    head = f"# search_spaces/{name}.yaml of study {study}\n"
    for file, source in _sources(spec, rest).items():
        digest = source["sha256"][:12]
        head += f"# with {file} of SHA-256 {digest}: add `--file {file}` to print it\n"
    return head + text


def file_text(study: str, spec: dict[str, Any], rest: dict[str, Any], file: str) -> str:
    """A Python file as a study has it. Raises UserError if it has none of that name."""
    sources = _sources(spec, rest)
    if file not in sources:
        raise UserError(f"study {study} has no {file}: there are {', '.join(sources) or 'none'}")
    text: str = sources[file]["text"]
    return text


def written(parameters: dict[str, Any]) -> dict[str, Any]:
    """A section `parameters` in which every default and every key of a domain is spelled out."""
    domains = {n: d for n, d in parameters.items() if isinstance(d, dict)}
    values = {n: v for n, v in parameters.items() if n not in domains}
    return _set(values) | {name: _domain(domain) for name, domain in domains.items()}


def _set(values: dict[str, Any]) -> dict[str, Any]:
    defaults = Hyperparameters.defaults()
    # As text: -0.0 is no 0.0, and then another study.
    return {
        key: value
        for key, value in values.items()
        if key not in defaults or str(value) != str(defaults[key])
    }


def _domain(domain: dict[str, Any]) -> dict[str, Any]:
    """A range or choices as a person writes them."""
    written = {key: value for key, value in domain.items() if key != "integer" and value}
    if domain.get("centre") is not None:
        whole = domain.get("integer", False)
        written["centre"] = int(domain["centre"]) if whole else domain["centre"]
    if "low" in domain:
        ends = {key: domain[key] for key in ("low", "high", "step") if domain[key] is not None}
        written |= {key: int(end) for key, end in ends.items()} if domain["integer"] else ends
    return written
