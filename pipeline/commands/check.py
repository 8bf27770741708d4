"""`check`: what a search space would have searched, and what that would cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.commands.check_estimate import estimate_text
from pipeline.commands.keep import begins, kept_text
from pipeline.data.preview import find_images
from pipeline.errors import UserError
from pipeline.paths import Paths
from pipeline.settings.hyperparameters import Choices, Domain, Hyperparameters
from pipeline.settings.machine import load_machine
from pipeline.settings.space import Space, load_space
from pipeline.work.own import own_faults

if TYPE_CHECKING:
    from pipeline.study.storage.rows import Part


def check_texts(root: Path, name: str) -> Iterator[str]:
    """What there is to say of a sweep's space, a block at a time.

    Raises UserError for a space that is not valid, and after the faults of its Python files.
    """
    space, paths = load_space(root, name), Paths(root, name)
    machine = load_machine(root)
    images = find_images(space, paths)
    found = begins(space, paths)
    kept = found.parts if found else []
    yield describe(space, kept)
    if space.sources:
        faults = list(own_faults(space, images.shape))
        yield from faults
        if faults:
            raise UserError(f"check {name}: {faults[0]}: correct it")
    yield estimate_text(space, machine, images, kept)
    yield kept_text(space, paths, found)


def describe(space: Space, kept: Sequence[Part] = ()) -> str:
    """A valid search space in words: what is searched, what is fixed, every default; `kept` are the
    parts of trials that are not trained."""
    lines = [f"search_spaces/{space.name}.yaml is valid.", ""]
    lines += ["searched hyperparameters:"]
    for name, domain in space.searched.items():
        lines.append(f"  {name:<21}{_domain(domain)}")
        meaning = space.kind.model_fields[name].description
        lines.append(f"  {'':<21}{meaning}; allowed: {allowed(name, space.kind)}")
    if not space.searched:
        lines.append("  none: the search has no trials")
    families = _families(space)
    lines += ["", "fixed hyperparameters (* by default):"]
    for name, field in space.kind.model_fields.items():
        readers = space.kind.readers.get(name, tuple(families))
        if name not in space.searched and families & set(readers):
            value = space.fixed.get(name, field.get_default())
            mark = "" if name in space.fixed else " *"
            lines.append(f"  {name:<21}{value}{mark}  ({field.description})")
    for section in ("data", "model", "search", "retrain", "evaluate", "render"):
        lines += ["", f"{section}:", *_section(getattr(space, section))]
        if section == "search" and space.search.pruner == "rungs" and space.search.rungs is None:
            lines.append(f"  {'rungs':<21}{space.search.pauses} *")
    return "\n".join([*lines, "", _cost(space, kept)])


def _domain(domain: Domain) -> str:
    if isinstance(domain, Choices):
        text = " | ".join(str(choice) for choice in domain.choices)
    else:
        kind = "integer" if domain.integer else "real"
        scale = ", log scale" if domain.log else ""
        step = f", step {domain.step:g}" if domain.step else ""
        text = f"{domain.low:g} … {domain.high:g} ({kind}{scale}{step})"
    conditions = "; ".join(f"{name} = {wanted}" for name, wanted in domain.when.items())
    return f"{text}  only when {conditions}" if conditions else text


def allowed(name: str, kind: type[Hyperparameters]) -> str:
    """The values that a hyperparameter may have, in words."""
    schema = kind.model_json_schema()["properties"][name]
    return " or ".join(_allowed(each) for each in schema.get("anyOf", [schema]))


def _allowed(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if schema["type"] in ("boolean", "null"):
        return "true, false" if schema["type"] == "boolean" else "null"
    if schema["type"] == "array":
        return f"a list of {_allowed(schema['items'])}"
    kind = "integers" if schema["type"] == "integer" else "numbers"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {schema[key]:g}" for key, sign in signs.items() if key in schema]
    return " ".join([kind, ", ".join(bounds)])


def _families(space: Space) -> set[str]:
    domain = space.searched.get("family")
    default = Hyperparameters.model_fields["family"].default
    return set(domain.grid()) if domain else {space.fixed.get("family", default)}


def _section(section: Any) -> list[str]:
    return [
        f"  {name:<21}{_value(value)}{'' if name in section.model_fields_set else ' *'}"
        for name, value in section
        if value is not None
    ]


def _value(value: Any) -> str:
    if hasattr(value, "model_dump"):
        return ", ".join(f"{key} {item}" for key, item in value.model_dump().items())
    return str(value)


def _cost(space: Space, kept: Sequence[Part]) -> str:
    search, retrain = space.search, space.retrain
    if not space.searched:
        most = retrain.seeds * retrain.epochs
        return f"at most {most} epochs: {retrain.seeds} seeds × {retrain.epochs}"
    from pipeline.study.search.forecast import forecast

    had = sum(part.epochs - part.since for part in kept)
    new = max(0, search.trials - len({part.trial for part in kept}))
    whole = new * search.epochs
    left = None if search.total_epochs is None else max(0, search.total_epochs - had)
    searched = whole if left is None else min(whole, left)
    most = searched + retrain.top * retrain.seeds * retrain.epochs
    if len(search.pauses) > 1:
        foreseen = forecast(space, begins_with=kept).epochs - had
        rungs = ", ".join(map(str, search.pauses))
        return (
            f"about {foreseen + most - searched} epochs: some {foreseen} for {new} trials"
            f" that pause at epochs {rungs} + at most {retrain.top} candidates × {retrain.seeds}"
            f" seeds × {retrain.epochs}"
        )
    trials = f"{new} trials × {search.epochs}"
    if left == searched:
        trials = f"{searched} of the search"
    return (
        f"at most {most} epochs: {trials} + {retrain.top}"
        f" candidates × {retrain.seeds} seeds × {retrain.epochs}"
    )
