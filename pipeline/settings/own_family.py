"""Families in files of your own, FILE.py:CLASS, and the hyperparameters that a space then has.

Their source is part of the space: whoever works on a sweep, rebuilds its model or repeats a trial
has it from there. Reading it runs nothing of it.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast, get_args

from pydantic import Field, ValidationError, create_model, model_validator

from pipeline.settings.declared import Declared, read_declared
from pipeline.settings.hyperparameters import Hyperparameters
from pipeline.settings.validation import Section, explain

# Ours whose hyperparameters only those spaces have that name them: the others' studies stay.
LATER = {"residual": "Residual"}
OUR_FAMILIES = Path(__file__).parents[1] / "vae" / "families"
MOST_BYTES = 1_000_000
# What a record, a table or a study already has beside the hyperparameters: one name, one meaning.
TAKEN = {
    "likelihood", "sigma", "sources",  # of a model
    "shape", "data", "data_sha256",  # of config.json
    "number", "state", "epochs", "best_epoch", "reason",  # of trials.csv
    "candidate", "best_or_equal", "seeds", "dropped_after", "weights",  # of candidates.csv
    "winner",
    "log10_lr",  # of MLflow's columns
}  # fmt: skip
OURS = "pipeline.vae"  # all of the checkout that a family may import: a model carries it


class Source(Section):
    """The content of a Python file."""

    sha256: str
    text: str

    @model_validator(mode="after")
    def _is_whole(self) -> Source:
        if hashlib.sha256(self.text.encode()).hexdigest() != self.sha256:
            raise ValueError("the text of a source is not that of its digest: restore it")
        return self


Sources = Mapping[str, Source]
Read = Callable[[str], Source]


def kept(model: Mapping[str, Any]) -> tuple[dict[str, Any], Read]:
    """A record's section `model` as a person writes it, and how the files in it are read."""
    written = dict(model)
    found = {file: Source(**each) for file, each in written.pop("sources", {}).items()}

    def read(file: str) -> Source:
        return found[file] if file in found else nowhere(file)

    return written, read


def nowhere(file: str) -> Source:
    """For a space that comes with no files. Raises ValueError."""
    raise ValueError(f"{file}: there is no checkout to read it from")


def reader(root: Path) -> Read:
    """How the Python files of a checkout are read."""
    return lambda file: read_source(root, file)


def read_source(root: Path, file: str) -> Source:
    """A file of the checkout that a space names. Raises ValueError; runs nothing of it."""
    path = root / file
    if Path(file).is_absolute() or root.resolve() not in path.resolve().parents:
        raise ValueError(f"{file}: must be a file in the checkout, with its path from there")
    if not path.is_file():
        raise ValueError(f"{file}: there is no such file in {root}: add it, or correct the name")
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{file}: a family's file has at most {MOST_BYTES} bytes: shorten it")
    try:
        text = path.read_bytes().decode()
        tree = ast.parse(text)
    except SyntaxError as error:
        raise ValueError(f"{file}: line {error.lineno}: {error.msg}: correct it") from None
    except ValueError:
        raise ValueError(f"{file}: is no text in UTF-8: save it as such") from None
    for node in ast.walk(tree):
        _check_import(node, root, file)
    return Source(sha256=hashlib.sha256(text.encode()).hexdigest(), text=text)


def named(entry: Any) -> list[str]:
    """The families that a value, choices or domain of `family` names."""
    if isinstance(entry, dict):
        entry = entry.get("choices")
    choices = getattr(entry, "choices", entry if isinstance(entry, list) else [entry])
    return [each for each in choices if isinstance(each, str)]


def files_of(families: Iterable[str]) -> list[str]:
    """The files of the families that are one's own."""
    return sorted({family.rpartition(":")[0] for family in own_families(families)})


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
    for family in own_families(families):
        file, _, name = family.rpartition(":")
        try:
            for key, each in read_declared(files[file], name).items():
                _check_name(key, each, name, families, declared)
                declared[key], readers[key] = each, (*readers.get(key, ()), family)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
    if not declared and not files:
        return base
    known = (*get_args(base.model_fields["family"].annotation), *own_families(families))
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


def own_families(families: Iterable[str]) -> list[str]:
    """Those of the families that are in files of one's own."""
    return [family for family in families if ":" in family]


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


def _check_import(node: ast.AST, root: Path, file: str) -> None:
    """Raises ValueError for what no digest covers and no other place would have."""
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        names = ["." if node.level else str(node.module)]
    for name in names:
        top = name.split(".")[0]
        ours = top in ("", "pipeline") or (root / top).exists() or (root / f"{top}.py").exists()
        if ours and not f"{name}.".startswith(f"{OURS}."):
            raise ValueError(
                f"{file}: line {getattr(node, 'lineno', 0)}: a family is one file, which may import"
                f" {OURS} of the checkout alone, but got {name}: put that into it"
            )
