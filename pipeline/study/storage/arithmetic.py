"""One study, one arithmetic: trials whose last bits may differ do not meet unless they may."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import combinations
from typing import Any

import sqlalchemy as sa

from pipeline.results.states import State
from pipeline.study.storage.schema import TRIALS, arithmetic_key

Arithmetic = dict[str, str]  # see `pipeline.vae.process.arithmetic`
UNKNOWN = "unknown, of an earlier version"


class OtherArithmetic(Exception):
    """A study has a trial that was computed otherwise."""


def refuse_another(db: sa.Connection, study: str, mine: Arithmetic) -> None:
    """Raises OtherArithmetic if a trial with an epoch, or in work, has another fingerprint.

    What a trial of an earlier version does not state is taken for any. Within the transaction of a
    claim, so that of two unlike workers at once only one begins. Costs the same at 5 000 trials:
    those with this very fingerprint are skipped in an index.
    """
    row, key = TRIALS.c, arithmetic_key({"arithmetic": mine})
    computed = (row.epochs > 0) | row.owner.is_not(None) | (row.state != State.RUNNING)
    other = (row.arithmetic < key) | (row.arithmetic > key)
    query = sa.select(sa.func.min(row.number)).where(row.study == study, other, computed)
    for number in sorted(db.execute(query.group_by(row.arithmetic)).scalars()):
        this = (row.study == study) & (row.number == number)
        theirs = json.loads(db.execute(sa.select(row.meta).where(this)).scalar_one())["arithmetic"]
        if differs := difference(theirs, mine):
            raise OtherArithmetic(
                f"trial {number} of {study} was computed with other arithmetic ({differs}), so"
                " results would differ in their last bits: work on it where it began, or set"
                " `mixed_arithmetic: true` in machine.yaml"
            )


def difference(theirs: Arithmetic, mine: Arithmetic) -> str:
    """What differs of what both state, as `key: there → here`; empty if nothing does."""
    return "; ".join(
        f"{key}: {theirs[key]} → {value}"
        for key, value in mine.items()
        if theirs.get(key, value) != value
    )


def summary(metas: Iterable[dict[str, Any]]) -> str:
    """The arithmetic of parts of trials with these `meta`, in one line; several are counted.

    It is mixed where two state something otherwise: what an earlier version left out is unknown.
    """
    counts: dict[str, int] = {}
    found: list[Arithmetic] = []  # each once
    for meta in metas:
        own = meta.get("arithmetic") or {}
        name = ", ".join(f"{key} {value}" for key, value in own.items()) or UNKNOWN
        if name not in counts:
            found.append(own)
        counts[name] = counts.get(name, 0) + 1
    if len(counts) <= 1:
        return next(iter(counts), "")
    parts = (f"{count} × {name}" for name, count in sorted(counts.items()))
    mixed = any(difference(one, other) for one, other in combinations(found, 2))
    return f"{'mixed' if mixed else 'one'}: {'; '.join(parts)}"
