"""Tables of kept trials: what earlier studies have learned, as a committed file.

A line is a JSON object. The first holds the version and the digest of the rest; then comes a line
a study, which says what makes its trials comparable, and a line a trial. There are no times and no
hosts, so that the same trials give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field, ValidationError

from pipeline.errors import UserError
from pipeline.results.keys import CURVE, KEPT, OUTCOME, PER_DIMENSION
from pipeline.results.states import FINISHED, State
from pipeline.settings.hyperparameters import Value
from pipeline.settings.own_family import LATER, kind_of
from pipeline.settings.validation import Section, explain, show, validated

VERSION = 1
EPOCH = {"epoch", *CURVE, PER_DIMENSION}


class Origin(Section):
    """A study whose trials were kept, and what makes them comparable."""

    study: str
    data: str = Field(pattern="^[0-9a-f]{64}$")
    model: dict[str, Any]
    sources: dict[str, str]  # Python files of families, and the SHA-256 of each
    epochs: int = Field(ge=1)
    objectives: list[str]
    training_semantics: int
    settled: dict[str, Any]  # of hyperparameters, where a trial has none of its own


class Line(Section):
    """A trial as the table has it."""

    study: str
    number: int = Field(ge=0)
    seed: int = Field(ge=0)
    state: str
    parameters: dict[str, Any]
    result: dict[str, Any] | None
    reason: str | None
    arithmetic: dict[str, str]
    curve: list[dict[str, Any]]


@dataclass(frozen=True)
class Kept:
    """A trial of a table with its study."""

    origin: Origin
    line: Line

    @property
    def setting(self) -> dict[str, Value]:
        """All hyperparameters that it was trained with."""
        return {**self.origin.settled, **self.line.parameters}

    @property
    def family(self) -> str:
        """Its architecture: one of ours, or FILE.py:CLASS."""
        return str(self.setting["family"])


def table_text(origins: Sequence[Origin], lines: Sequence[Line]) -> str:
    """The content of a table."""
    rest = "".join(
        json.dumps(each.model_dump(), ensure_ascii=False) + "\n" for each in (*origins, *lines)
    )
    return json.dumps({"kept": VERSION, "sha256": _sha256(rest)}) + "\n" + rest


def read_table(text: str, file: str) -> list[Kept]:
    """The trials of a table's content. Raises UserError with the line that is wrong."""
    again = "write it by `python -m pipeline keep NAME`"
    head, _, rest = text.partition("\n")
    first = _json(head, f"{file}: line 1")
    version = first.get("kept")
    if set(first) != {"kept", "sha256"} or not isinstance(version, int):
        raise UserError(f"{file}: must be a table of kept trials, but line 1 is none's: {again}")
    if version != VERSION:
        raise UserError(
            f"{file}: is of version {version}, but this program reads {VERSION}: {again}"
        )
    if first["sha256"] != _sha256(rest):
        raise UserError(f"{file}: was edited: its lines are not those of its digest: {again}")
    origins: dict[str, Origin] = {}
    found: list[Kept] = []
    known: set[str] = set()
    for number, content in enumerate(rest.removesuffix("\n").split("\n"), start=2):
        where = f"{file}: line {number}"
        record = _json(content, where)
        if "number" not in record:
            origin = validated(Origin, record, where)
            if origin.study in origins:
                raise UserError(f"{where}: study {origin.study} is there twice: {again}")
            origins[origin.study] = origin
            continue
        line = validated(Line, record, where)
        if line.study not in origins:
            raise UserError(f"{where}: study: {line.study} has no line before it: {again}")
        kept = Kept(origins[line.study], line)
        for name in (f"trial {line.number} of {line.study}", identity(kept)):
            if name in known:
                raise UserError(
                    f"{where}: trial {line.number} of {line.study} is there twice: {again}"
                )
            known.add(name)
        for rule in (*_parameters(kept), *_outcome(line)):
            raise UserError(f"{where}: {rule}: {again}")
        found.append(kept)
    return found


def identity(kept: Kept) -> str:
    """What makes a training the same one, wherever it was recorded."""
    origin = kept.origin.model_dump(exclude={"study", "settled"})
    return json.dumps([origin, kept.setting, kept.line.seed], sort_keys=True)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _json(text: str, where: str) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        found = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UserError(
            f"{where}: must be an object of JSON, but got {show(text)}: write the table by"
            " `python -m pipeline keep NAME`"
        )
    return found


def _parameters(kept: Kept) -> Iterator[str]:
    """What is wrong with a setting; what families of one's own declare is not known here.

    A trial has the hyperparameters of all families of its space.
    """
    setting = kept.setting
    family = setting.get("family")
    if not isinstance(family, str):
        yield f"parameters.family: must be text, but got {show(family)}"
        return
    own = ":" in family
    kind = kind_of(LATER, {})
    known = {key: value for key, value in setting.items() if key in kind.model_fields}
    strange = sorted(setting.keys() - known.keys())
    if strange and not kept.origin.sources:
        yield f"parameters.{strange[0]}: is no hyperparameter"
    if own and family.rpartition(":")[0] not in kept.origin.sources:
        yield f"parameters.family: {family} is of a file that its study does not have"
    try:
        kind(**known | ({"family": "mlp"} if own else {}))
    except ValidationError as error:
        detail = error.errors()[0]
        yield f"parameters.{'.'.join(map(str, detail['loc']))}: {explain(detail)}"


def _outcome(line: Line) -> Iterator[str]:
    """What is wrong with what a trial has come to."""
    result, epochs = line.result, len(line.curve)
    if line.state not in FINISHED:
        yield f"state: must be one of {', '.join(FINISHED)}, but got {line.state}"
    elif line.state == State.FAILED and (result is not None or not line.reason):
        yield "state: a trial that failed has a reason and no result"
    elif line.state != State.FAILED and (result is None or line.reason or not epochs):
        yield f"state: one that is {line.state} has epochs and a result, and no reason"
    for number, record in enumerate(line.curve, start=1):
        if set(record) != EPOCH or record["epoch"] != number:
            yield f"curve: epoch {number} must have {', '.join(sorted(EPOCH))} and nothing else"
            return
        if not all(_is_finite(record[key]) for key in CURVE):
            yield f"curve: epoch {number} must hold finite numbers"
            return
    if result is None:
        return
    if not set(OUTCOME) <= set(result) or not all(_is_finite(value) for value in result.values()):
        yield f"result: must have {', '.join(OUTCOME)}, finite numbers"
    elif result["epochs"] != epochs or not 1 <= result["best_epoch"] <= epochs:
        yield f"result: must be of the {epochs} epochs of its curve"
    elif any(result[key] != line.curve[result["best_epoch"] - 1][key] for key in KEPT):
        yield f"result: must be that of epoch {result['best_epoch']} of its curve"


def _is_finite(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)
