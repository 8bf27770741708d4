"""A study as tables: no times and no host names, so that equal studies give equal bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.results.keys import CURVE, KEPT_FROM, PARTS, TRIAL
from pipeline.study.storage.rows import Trial

if TYPE_CHECKING:
    import pandas as pd


def trials_table(trials: Sequence[Trial], searched: list[str]) -> pd.DataFrame:
    """One row a trial: outcome first, then one column per searched hyperparameter.

    With kept trials a column says which trial of which study each was.
    """
    import pandas as pd

    rows = []
    kept = [KEPT_FROM] if any(trial.kept for trial in trials) else []
    for trial in trials:
        result = trial.result or {}
        parameters = trial.parameters or {}
        row: dict[str, Any] = {"number": trial.number, "state": trial.state}
        for name in PARTS:
            row[name] = result.get(name)
        row["epochs"] = len(trial.curve)
        row["best_epoch"] = result.get("best_epoch")
        row["reason"] = (trial.reason or "").splitlines()[0] if trial.reason else None
        row[KEPT_FROM] = trial.kept_from
        row |= {name: cell(parameters.get(name)) for name in searched}
        rows.append(row)
    # As objects, integers of a column with gaps stay integers.
    return pd.DataFrame(rows, columns=[*TRIAL, *kept, *searched], dtype=object)


def curves_table(trials: Sequence[Trial]) -> pd.DataFrame:
    """One row a trial and epoch."""
    import pandas as pd

    rows = [
        {"number": trial.number, **epoch_row(record)} for trial in trials for record in trial.curve
    ]
    return pd.DataFrame(rows, columns=["number", "epoch", *CURVE])


def epoch_row(record: dict[str, Any]) -> dict[str, Any]:
    """The columns of an epoch."""
    return {"epoch": record["epoch"], **{name: record[name] for name in CURVE}}


def cell(value: Any) -> Any:
    """A value as a table holds it: lists as JSON text."""
    return json.dumps(value) if isinstance(value, list) else value


def pareto_front(complete: Sequence[Trial], objectives: Sequence[str]) -> list[int]:
    """The trials that no other betters: as good in all objectives and better in at least one."""
    points = {t.number: [t.result[key] for key in objectives] for t in complete if t.result}

    def dominated(number: int) -> bool:
        mine = points[number]
        return any(
            other != mine and all(a <= b for a, b in zip(other, mine, strict=True))
            for other in points.values()
        )

    return [number for number in points if not dominated(number)]
