"""Trials of the ledger as lines of a table; see `pipeline.study.search.kept_table`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pipeline.results.states import State
from pipeline.seeds import trial_seed
from pipeline.settings.own_family import kind_of, named
from pipeline.settings.own_files import SOURCES, Source
from pipeline.study.receipt import part_record
from pipeline.study.search.kept_table import Kept, Line, Origin, identity
from pipeline.study.search.numerics import of_training
from pipeline.study.storage.rows import Part, by_trial


def origin_of(study: str, spec: dict[str, Any]) -> Origin:
    """The line of a search's study with this specification."""
    model = dict(spec["model"])
    sources = model.pop(SOURCES, {})
    family = spec["fixed"].get("family") or spec["searched"]["family"]
    kind = kind_of(named(family), {file: Source(**each) for file, each in sources.items()})
    return Origin(
        study=study,
        data=spec["data"],
        model=model,
        sources={file: each["sha256"] for file, each in sources.items()},
        epochs=spec["search"]["epochs"],
        objectives=spec["search"]["objectives"],
        training_semantics=spec["training_semantics"],
        settled=kind.defaults() | spec["fixed"],
    )


def kept_of(origin: Origin, seed: int, parts: Sequence[Part]) -> list[Kept]:
    """The trials of a study as far as they are finished, each as its last part has left it.

    `seed` is that of the search. One that the study has itself begun with keeps its own.
    """
    found = []
    for own in by_trial(parts).values():
        seed_of_its_own = (own[0].kept or {}).get("seed")
        if ended := [part for part in own if part.state != State.RUNNING]:
            found.append(Kept(origin, _line(ended[-1], seed_of_its_own, seed)))
    return found


def merged(tables: Iterable[Sequence[Kept]]) -> list[Kept]:
    """All trials, none twice: of one that was kept and has gone on, what it has come to last."""
    found: dict[str, Kept] = {}
    for kept in (each for table in tables for each in table):
        known = found.get(name := identity(kept))
        if known is None or len(known.line.curve) < len(kept.line.curve):
            found[name] = kept
    return list(found.values())


def contradictions(tables: Iterable[Sequence[Kept]]) -> Iterator[str]:
    """Of one training two records that differ: by unlike machines, or because one is false."""
    found: dict[str, Kept] = {}
    for kept in (each for table in tables for each in table):
        known = found.setdefault(identity(kept), kept)
        both = zip(known.line.curve, kept.line.curve, strict=False)
        epoch = next((number for number, (one, other) in enumerate(both, 1) if one != other), None)
        if epoch is not None:
            yield (
                f"trial {kept.line.number} of {kept.line.study} is trial {known.line.number} of"
                f" {known.line.study} again, but differs in epoch {epoch}: the longer one is kept,"
                " of equals the first"
            )


def _line(part: Part, own_seed: int | None, seed: int) -> Line:
    record = part_record(part)
    return Line(
        study=part.study,
        number=part.trial,
        seed=trial_seed(seed, part.trial, fresh=False) if own_seed is None else own_seed,
        state=str(part.state),
        parameters=record["parameters"] or {},
        result=record["result"],
        reason=record["reason"],
        arithmetic=of_training(part.meta),
        curve=record["curve"],
    )
