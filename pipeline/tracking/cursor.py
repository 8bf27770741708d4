"""What a store is known to hold already.

The cursor only saves work. Without it, or when it belongs to another store, the mirror finds its
runs by their tags and sends everything again, which MLflow stores once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.files import read_json, write_text
from pipeline.seeds import digest
from pipeline.tracking.records import Metric

UNKNOWN = ""


@dataclass
class Sent:
    """What one MLflow run is known to hold. Digests stand for the values."""

    run_id: str
    deleted: bool = False  # somebody deleted it in MLflow, so it is left alone
    generation: int = 0  # of runs of this key: how often another one has taken its place
    params: str = UNKNOWN
    tags: str = UNKNOWN
    dataset: str = UNKNOWN
    metrics: int = 0  # the first so many finite points of the record's curves
    curve: str = UNKNOWN  # digest of those
    figures: str = UNKNOWN
    position: list[int] | None = None  # in the stream
    status: str = "RUNNING"
    end_ms: int | None = None
    artifacts: dict[str, str] = field(default_factory=dict)  # path in the run -> digest
    mark: list[Any] | None = None  # of the last record that arrived whole
    # Of a study: every value of a tag or figure that it was sent, or was about to be sent.
    stated: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def fresh(self) -> bool:
        """It was created just now and holds nothing."""
        return self.params == NONE_SENT and self.tags == UNKNOWN


@dataclass
class Log:
    """One experiment: which one it is, and its runs by key."""

    experiment_id: str
    created_ms: int  # tells a store from a later one at the same address
    runs: dict[str, Sent] = field(default_factory=dict)


def load_cursor(path: Path) -> dict[str, Log]:
    """The experiments by name; none if there is no cursor or another version wrote it."""
    try:
        return {name: _log(raw) for name, raw in read_json(path).items()}
    except (FileNotFoundError, UserError, TypeError, KeyError, AttributeError):
        return {}


def save_cursor(path: Path, logs: dict[str, Log]) -> None:
    """Replaces the cursor, in one line: many runs are written every few seconds."""
    raw = {
        name: vars(log) | {"runs": {key: vars(sent) for key, sent in log.runs.items()}}
        for name, log in logs.items()
    }
    write_text(path, json.dumps(raw))


def short_digest(value: Any) -> str:
    """64 bits of the SHA-256 of a JSON value."""
    return digest(value)[:16]


NONE_SENT = short_digest({})


def curve_digest(metrics: list[Metric]) -> str:
    """Without times: an epoch that was trained again after a crash is the same point."""
    return short_digest([[m.key, m.value, m.step] for m in metrics])


def _log(raw: dict[str, Any]) -> Log:
    return Log(
        experiment_id=raw["experiment_id"],
        created_ms=raw["created_ms"],
        runs={key: Sent(**sent) for key, sent in raw["runs"].items()},
    )
