"""The parts of a search as a table: which trial came to which rung, and with what value."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.files import read_json
from pipeline.results.states import State

COLUMNS = ("trial", "since", "until", "state", "epochs", "nelbo_nats")


def read_parts(path: Path) -> pd.DataFrame:
    """study.json as a row a part: its trial, its epochs, and the NELBO that it has come to."""
    (study,) = read_json(path)
    return parts_table(study["trials"])


def parts_table(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The same from the records of parts; before there were rungs a part was a whole trial."""
    rows = [
        {
            "trial": record.get("trial", record["number"]),
            "since": record.get("since", 0),
            "until": record.get("until", 0),
            "state": record["state"],
            "epochs": len(record["curve"]),
            "nelbo_nats": (record["result"] or {}).get("nelbo_nats"),
        }
        for record in records
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"nelbo_nats": float})


def rung_table(rungs: Sequence[int], parts: pd.DataFrame) -> pd.DataFrame:
    """A row a rung: trials that began the way to it, reached it and went on, and the best NELBO.

    A trial that ended by itself before a rung (early stopping) counts as having reached it.
    """
    there = parts[parts["state"].isin([State.COMPLETE, State.PAUSED])]
    rows = [
        {
            "epochs": rung,
            "began": int((parts["until"] == rung).sum()),
            "reached": int((there["until"] == rung).sum()),
            "promoted": int((parts["since"] == rung).sum()),
            "best_nelbo_nats": there.loc[there["until"] == rung, "nelbo_nats"].min(),
        }
        for rung in rungs
    ]
    return pd.DataFrame(rows)


def at_first_rung(parts: pd.DataFrame) -> pd.DataFrame:
    """By trial, the epoch at which it paused first (or ended) and its NELBO there: columns `until`
    and `nelbo_nats`. All trials have been there but those that failed before."""
    first = parts[(parts["since"] == 0) & parts["nelbo_nats"].notna()]
    return first.set_index("trial")[["until", "nelbo_nats"]]
