"""The hyperparameters that a space has with families in files of your own, FILE.py:CLASS."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast, get_args

from pydantic import Field, ValidationError, create_model

from pipeline.settings.declared import Declared, read_declared
from pipeline.settings.hyperparameters import Hyperparameters
from pipeline.settings.own_files import Sources, files_of, is_own
from pipeline.settings.validation import explain

# Ours whose hyperparameters only those spaces have that name them: the others' studies stay.
LATER = {"residual": "Residual"}
OUR_FAMILIES = Path(__file__).parents[1] / "vae" / "families"
# What a record, a table or a study already has beside the hyperparameters: one name, one meaning.
TAKEN = {
    "likelihood", "sigma", "sources",  # of a model
    "shape", "data", "data_sha256",  # of config.json
    "number", "state", "epochs", "best_epoch", "reason",  # of trials.csv
    "candidate", "best_or_equal", "seeds", "dropped_after", "weights",  # of candidates.csv
    "winner",
    "log10_lr",  # of MLflow's columns
}  # fmt: skip


def named(entry: Any) -> list[str]:
    """The families that a value, choices or domain of `family` names."""
    if isinstance(entry, dict):
        entry = entry.get("choices")
    choices = getattr(entry, "choices", entry if isinstance(entry, list) else [entry])
    return [each for each in choices if isinstance(each, str)]


def kind_of(families: Iterable[str], sources: Sources) -> type[Hyperparameters]:
    """The hyperparameters of a space with these families. Raises ValueError for a declaration."""
    names = tuple(dict.fromkeys(families))
    return _kind(names, tuple(sources[file].text for file in files_of(names)))


@cache
def _kind(families: tuple[str, ...], texts: tuple[str, ...]) -> type[Hyperparameters]:
    base, files = Hyperparameters, dict(zip(files_of(families), texts, strict=True))
    declared: dict[str, Declared] = {}
    readers: dict[str, tuple[str, ...]] = {}
    for family in LATER.keys() & set(families):
        text = (OUR_FAMILIES / f"{family}.py").read_text(encoding="utf-8")
        for key, each in read_declared(text, LATER[family]).items():
            if key not in base.model_fields:
                declared[key], readers[key] = each, (family,)
    for family in filter(is_own, families):
        file, _, name = family.rpartition(":")
        try:
            for key, each in read_declared(files[file], name).items():
                _check_name(key, each, name, families, declared)
                declared[key], readers[key] = each, (*readers.get(key, ()), family)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
    if not declared and not files:
        return base
    known = (*get_args(base.model_fields["family"].annotation), *filter(is_own, families))
    usual = base.model_fields["family"]
    fields: dict[str, Any] = {}
    for key, each in declared.items():
        file, _, name = readers[key][0].rpartition(":")
        meaning = f"{name}: {each.meaning}" if file else each.meaning
        fields[key] = (each.kind, Field(each.default, description=meaning))
    fields["family"] = (Literal[known], Field(usual.default, description=usual.description))
    made = cast("type[Hyperparameters]", create_model(base.__name__, __base__=base, **fields))
    made.readers = {**base.readers, **readers}
    _check_defaults(made, declared)
    return made


def _check_name(
    key: str,
    new: Declared,
    name: str,
    families: tuple[str, ...],
    declared: dict[str, Declared],
) -> None:
    if key in TAKEN or key.endswith("_nats") or key[0] == "_" or hasattr(Hyperparameters, key):
        raise ValueError(f"{name}.{key}: the name has another meaning here: rename it")
    if key in Hyperparameters.model_fields and key not in Hyperparameters.readers:
        raise ValueError(f"{name}.{key}: every family has a hyperparameter {key}: rename it")
    if others := set(families) & set(Hyperparameters.readers.get(key, ())):
        raise ValueError(
            f"{name}.{key}: {min(others)}, which the space has too, reads a hyperparameter {key}:"
            " rename it"
        )
    if declared.get(key, new) != new:
        raise ValueError(f"{name}.{key}: another family of the space declares {key} otherwise:"
                         " rename it")  # fmt: skip


def _check_defaults(kind: type[Hyperparameters], declared: dict[str, Declared]) -> None:
    for key, each in declared.items():
        try:
            kind(**{key: each.default})
        except ValidationError as error:
            file = kind.readers[key][0].rpartition(":")[0]
            raise ValueError(
                f"{file}: the default of {key}: {explain(error.errors()[0])}: correct it"
            ) from None
