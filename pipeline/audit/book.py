"""The outputs of a sweep as its stages left them, with the settings that they were made with."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.files import read_array, read_json
from pipeline.paths import Paths
from pipeline.results.record import SECTIONS, Record, is_made, read_record
from pipeline.settings.own_files import kept
from pipeline.settings.space import Space, parse_space
from pipeline.study.identity import Study, search_study
from pipeline.study.receipt import read_studies, recorded_part
from pipeline.study.restore import written
from pipeline.study.storage.rows import Part, Trial, trials_of


@dataclass(frozen=True)
class Book:
    """What lies in runs/NAME, up to the last stage that has run."""

    paths: Paths
    records: dict[str, Record]  # by stage
    space: Space  # with the settings that the stages were made with
    manifest: dict[str, Any]
    search: dict[str, Any] = field(default_factory=dict)  # of study.json
    best: dict[str, Any] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)  # of runs.json
    measured: NDArray[np.float64] | None = None  # (candidates, seeds, images)
    config: dict[str, Any] = field(default_factory=dict)
    winner: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def study(self) -> Study:
        """The search's, as the settings and the data make it."""
        return search_study(self.space, self.manifest["sha256"])

    @property
    def parts(self) -> list[Part]:
        """The search's."""
        return parts_of(self.search)

    @property
    def trials(self) -> list[Trial]:
        """The search's."""
        return trials_of(self.parts)

    @property
    def counts(self) -> dict[str, Any]:
        """The numbers of images by split."""
        counts: dict[str, Any] = self.manifest["counts"]
        return counts


def parts_of(study: dict[str, Any]) -> list[Part]:
    """The parts of an entry of study.json or runs.json."""
    return [recorded_part(study["study"], record) for record in study["trials"]]


def read_book(paths: Paths, stages: tuple[str, ...]) -> Book:
    """Reads the outputs of those of `stages` that have run, the search at least.

    Raises UserError for what is missing or cannot be read.
    """
    records = {stage: read_record(paths, stage) for stage in stages[:2]}
    records |= {stage: read_record(paths, stage) for stage in stages[2:] if is_made(paths, stage)}
    parts: dict[str, Any] = {}
    try:
        (parts["search"],) = read_studies(paths.search_record)
        parts["best"] = read_json(paths.best)
        if "retrain" in records:
            parts["runs"] = read_studies(paths.runs_record)
            parts["measured"] = read_array(paths.measured)
            parts["config"] = read_json(paths.config)
            parts["winner"] = read_json(paths.winner)
        if "evaluate" in records:
            parts["metrics"] = read_json(paths.metrics)
        manifest = read_json(paths.manifest)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing: run the stage that writes it") from None
    return Book(paths, records, recorded_space(paths.name, records), manifest, **parts)


def recorded_space(name: str, records: dict[str, Record]) -> Space:
    """The space that the stages were made with; what no stage has used has its default."""
    sections: dict[str, Any] = {}
    for stage, record in records.items():
        for section in SECTIONS[stage]:
            sections.setdefault(section, record.settings.get(section, {}))
    sections["parameters"] = written(sections["parameters"])
    sections["data"] = json.loads(json.dumps(sections["data"]))
    sections, read = kept(sections)
    return parse_space(name, sections, f"runs/{name}: the recorded settings", read)
