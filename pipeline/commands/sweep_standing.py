"""What a sweep has come to, and what a night has added to it, as a summary says it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.files import read_array, read_json
from pipeline.paths import Paths
from pipeline.results.record import belongs, is_made, open_stage, read_record
from pipeline.results.states import Kind, State
from pipeline.settings.machine import Machine
from pipeline.study.confirmation.compare import Matrix, difference
from pipeline.study.storage.readonly import reading
from pipeline.study.storage.rows import Part


@dataclass(frozen=True)
class Winner:
    """Of retrain's output, and what evaluate measured of it."""

    study: str
    number: int | None
    parameters: dict[str, Any]
    measured: Matrix  # (seeds, images) validation NELBO in nats
    test_nelbo_nats: float | None

    @property
    def record(self) -> dict[str, Any]:
        """As a summary has it."""
        return {
            "trial": self.number,
            "validation_nelbo_nats": float(self.measured.mean()),
            "seeds": len(self.measured),
            "test_nelbo_nats": self.test_nelbo_nats,
        }


@dataclass(frozen=True)
class Standing:
    """Where a sweep stands."""

    trials: int | None  # of the search's output
    winner: Winner | None
    parts: dict[tuple[str, int], Part]  # of all its studies in the ledger that have ended
    searches: frozenset[str]  # those of the studies that are of searches, not of candidates

    def failures(self, before: Standing) -> list[str]:
        """What has failed since, and why."""
        new = self._new(before)
        return [
            f"{'trial' if part.study in self.searches else 'run'} {part.trial} of {part.study}:"
            f" {(part.reason or '').splitlines()[0]}"
            for part in new
            if part.state == State.FAILED
        ]

    def _new(self, before: Standing) -> list[Part]:
        """What was trained since: kept trials of earlier studies were not."""
        parts = self.parts.items()
        return [part for key, part in parts if key not in before.parts and not part.kept]

    def tried(self, before: Standing) -> dict[str, int]:
        """How much has ended since: trials that were begun, their parts, runs of candidates, and
        the epochs of all of these."""
        new = self._new(before)
        searched = [part for part in new if part.study in self.searches]
        retrained = {(part.study, part.trial) for part in new if part.study not in self.searches}
        return {
            "trials": sum(not part.since for part in searched),
            "parts": len(searched),
            "runs": len(retrained),
            "epochs": sum(len(part.curve) - part.since for part in new),
        }


def standing(machine: Machine, paths: Paths) -> Standing:
    """Reads it from outputs and ledger; what is not there, or is damaged, counts as not there."""
    with reading(machine, paths) as ledger:
        searches = frozenset(ledger.studies(paths.name, Kind.SEARCH))
        studies = [study for kind in Kind for study in ledger.studies(paths.name, kind)]
        parts = [part for study in studies for part in ledger.parts(study)]
    ended = {(part.study, part.number): part for part in parts if part.state != State.RUNNING}
    trials = None
    try:
        if is_made(paths, "search"):
            trials = read_record(paths, "search").settings["search"]["trials"]
        winner = _winner(paths)
    except (UserError, KeyError):
        winner = None
    return Standing(trials, winner, ended, searches)


def _winner(paths: Paths) -> Winner | None:
    if not is_made(paths, "retrain"):
        return None
    open_stage(paths, "retrain")
    won, test = read_json(paths.winner), None
    if is_made(paths, "evaluate") and belongs(paths, "evaluate"):
        test = read_json(paths.metrics)["nelbo_nats"]
    measured = read_array(paths.measured)[won["candidate"]]
    there = measured[~np.isnan(measured).all(axis=1)]
    return Winner(won["study"], won["number"], won["parameters"], there, test)


def gained(before: Winner | None, after: Winner | None) -> dict[str, Any]:
    """What a night has gained: `nats` with its 95 % interval, and how that is known, in words.

    It `is_better` if even the lower end of the interval is a gain; so is the first winner of all.
    """
    if after is None:
        return {"is_better": False, "evidence": "there is no winner"}
    if before is None:
        return {"is_better": True, "evidence": "it is the first winner"}
    if before.study != after.study or before.measured.shape[1] != after.measured.shape[1]:
        return {"is_better": False, "evidence": "it is of another study: not to be compared"}
    if before.parameters == after.parameters:
        return {"is_better": False, "evidence": "it is the same setting as before"}
    gap = difference(before.measured, after.measured)
    known = math.isfinite(gap.low) and math.isfinite(gap.high)
    seeds = f"{len(after.measured)} and {len(before.measured)} seeds"
    images = f"{after.measured.shape[1]} validation images"
    unsure = (
        "cannot be told apart from the one before: " if known and gap.low <= 0 <= gap.high else ""
    )
    why = "single seeds" if math.isnan(gap.seed_error) else "a single image"
    span = f"95 % interval {gap.low:.2f} … {gap.high:.2f}" if known else f"no interval: {why}"
    return {
        "is_better": known and gap.low > 0,
        "nats": gap.mean,
        "low": gap.low if known else None,
        "high": gap.high if known else None,
        "evidence": f"{unsure}{gap.mean:+.2f} nats, {span}, {seeds}, {images}",
    }
