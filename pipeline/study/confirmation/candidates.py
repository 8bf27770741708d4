"""What the stage retrain writes of its candidates, as functions of their runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.results.keys import PER_DIMENSION
from pipeline.settings.hyperparameters import Value
from pipeline.settings.space import Space
from pipeline.study.confirmation.compare import Matrix, interval
from pipeline.study.confirmation.winner import Candidate, Verdict
from pipeline.study.storage.arithmetic import summary
from pipeline.study.tables import cell, epoch_row

if TYPE_CHECKING:
    import pandas as pd


def model_record(
    space: Space, manifest: dict[str, Any], parameters: dict[str, Value]
) -> dict[str, Any]:
    """The content of config.json, what a model is rebuilt from."""
    return {
        "shape": manifest["shape"],
        "data": manifest["data"],
        "data_sha256": manifest["sha256"],
        **space.record(parameters),
    }


def measurements(candidates: Sequence[Candidate]) -> Matrix:
    """(candidates, seeds, images) validation NELBO in nats; NaN for a candidate that failed."""
    images = max(candidate.measured.shape[1] for candidate in candidates)
    seeds = max(len(candidate.runs) for candidate in candidates)
    found = np.full((len(candidates), seeds, images), math.nan)
    for index, candidate in enumerate(candidates):
        found[index, : len(candidate.measured)] = candidate.measured
    return found


def best_seed(winner: Candidate) -> int:
    """The seed whose weights are the sweep's model: its lowest validation NELBO, then the first."""
    return min(range(len(winner.values)), key=lambda n: (winner.values[n], n))


def winner_record(
    best: dict[str, Any], candidates: list[Candidate], verdict: Verdict
) -> dict[str, Any]:
    """The content of winner.json; `best` is that of best.json."""
    winner, seed = verdict.winner, best_seed(verdict.winner)
    return {
        "study": best["study"],
        "candidate": winner.index,
        "number": winner.entry["number"],
        "seed": seed,
        "nelbo_nats": winner.values[seed],
        "mean_nelbo_nats": winner.mean,
        "values_nelbo_nats": winner.values,
        "search_nelbo_nats": winner.entry["nelbo_nats"],
        "best_epoch": (winner.runs[seed].result or {}).get("best_epoch"),
        "weights": winner.weights,
        "parameters": winner.entry["parameters"],
        "sentence": verdict.sentence,
        "race": [asdict(look) for look in verdict.looks],
        "arithmetic": summary(run.meta for c in candidates for run in c.runs if run.curve),
    }


def candidates_table(
    candidates: list[Candidate], verdict: Verdict, searched: list[str]
) -> pd.DataFrame:
    """One row a candidate: its mean, the intervals, and what it was in the search."""
    import pandas as pd

    rows = []
    for candidate in candidates:
        low, high = interval(candidate.values) or (None, None)
        mean = candidate.mean if math.isfinite(candidate.mean) else None
        row = {
            "candidate": candidate.index,
            "number": candidate.entry["number"],
            "mean_nelbo_nats": mean,
            "low_nelbo_nats": low,
            "high_nelbo_nats": high,
            **_behind(candidate, verdict.leader),
            "best_or_equal": candidate in verdict.equals,
            "search_nelbo_nats": candidate.entry["nelbo_nats"],
            "seeds": len(candidate.runs),
            "dropped_after": candidate.dropped.epoch if candidate.dropped else None,
            "weights": candidate.weights,
            "winner": candidate is verdict.winner,
        }
        names = searched or list(candidate.entry["parameters"])
        rows.append(row | {name: cell(candidate.entry["parameters"].get(name)) for name in names})
    return pd.DataFrame(rows).astype({"dropped_after": "Int64"})


def _behind(candidate: Candidate, leader: Candidate) -> dict[str, float | None]:
    """The paired difference from the leader; empty for the leader itself and for a failure."""
    names = ("difference", "low_difference", "high_difference", "seed_error", "image_error")
    figures: tuple[float | None, ...] = (None,) * len(names)
    if candidate is not leader and math.isfinite(candidate.mean):
        gap = candidate.behind(leader)
        figures = (gap.mean, gap.low, gap.high, gap.seed_error, gap.image_error)
    return {f"{name}_nats": figure for name, figure in zip(names, figures, strict=True)}


def history_table(candidates: list[Candidate]) -> pd.DataFrame:
    """One row a candidate, seed and epoch."""
    import pandas as pd

    return pd.DataFrame(
        {
            "candidate": candidate.index,
            "seed": run.number,
            **epoch_row(record),
            PER_DIMENSION: cell(record[PER_DIMENSION]),
        }
        for candidate in candidates
        for run in candidate.runs
        for record in run.curve
    )
