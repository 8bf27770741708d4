"""The records that the mirror sends: plain values, no MLflow."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

_KEY = re.compile(r"[A-Za-z0-9._/-]{1,250}")
DIGEST_LENGTH = 36  # MLflow's limit for the digest of a dataset


@dataclass(frozen=True)
class Metric:
    """One point of a curve. Equal points are one point: MLflow stores them once."""

    key: str
    value: float
    step: int
    timestamp_ms: int

    @property
    def finite(self) -> bool:
        return math.isfinite(self.value)


# Where a stream was read to, as JSON; None is its beginning.
Position = list[int] | None
# The next points of a stream after a position, not too many at once, and where they end.
Stream = Callable[[Position], tuple[list[Metric], Position]]


@dataclass(frozen=True)
class Dataset:
    """The data of a run, as MLflow lists them under its inputs."""

    name: str
    digest: str  # at most 36 characters, so an MD5 or part of a SHA-256
    source: str  # where the data came from, in words or as a path
    schema: str = "{}"  # JSON
    profile: str = "{}"  # JSON

    def __post_init__(self) -> None:
        if len(self.digest) > DIGEST_LENGTH:
            raise ValueError(
                f"a dataset's digest has at most {DIGEST_LENGTH} characters, but got {self.digest}"
            )


@dataclass(frozen=True)
class Run:
    """All that is known about one study, trial, retrained candidate or evaluation.

    A later record of the same key replaces an earlier one: status, tags, name and artifacts may
    change, params stay. What a record does not state, because its source is not here, stays as it
    is in MLflow. Times are milliseconds since 1970, UTC.
    """

    key: str  # the identity: one run per key and store, so two ledgers must not share a key
    name: str  # shown in lists, which sort by it: "trial 0007"
    parent: str | None  # key of the run it belongs to, which must be mirrored before it
    status: Status
    start_ms: int
    end_ms: int | None
    params: dict[str, str] = field(default_factory=dict)
    metrics: list[Metric] = field(default_factory=list)
    curves: frozenset[str] = frozenset()  # names of all metrics that are curves, empty ones too
    figures: list[Metric] = field(default_factory=list)  # have one value, at whatever step
    figures_are_all: bool = False  # other figures in MLflow are no longer so
    stream: Stream | None = None  # points that only come after others, read where it was left
    tags: dict[str, str] = field(default_factory=dict)
    artifacts: dict[str, Path] = field(default_factory=dict)  # path in the run -> file or folder
    description: str = ""  # Markdown; empty: as it is
    first_description: str = ""  # of a run that has none
    dataset: Dataset | None = None
    mark: list[Any] | None = None  # the version of the source's row that this record shows

    def __post_init__(self) -> None:
        if not _KEY.fullmatch(self.key):
            raise ValueError(f"a run's key is letters, digits and ._/-, but got {self.key!r}")
        if self.status != "RUNNING" and self.end_ms is None:
            raise ValueError(f"run {self.key} is {self.status}, so it needs `end_ms`")
