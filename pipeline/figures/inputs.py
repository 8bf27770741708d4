"""Everything that the figures are drawn from: the files of the earlier stages, read once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.figures.passes import Array
from pipeline.figures.rungs import read_parts
from pipeline.figures.trials import Domains, read_trials
from pipeline.files import read_array, read_json, read_table
from pipeline.paths import Paths


@dataclass(frozen=True)
class Inputs:
    """The outputs of prepare, search, retrain and evaluate."""

    manifest: dict[str, Any]
    classes: list[str]
    images: Array  # (n, C, H, W) uint8, test
    labels: Array  # (n,) int64, test
    samples_png: bytes
    trials: pd.DataFrame
    curves: pd.DataFrame
    parts: pd.DataFrame  # of the search, a row each: see pipeline.figures.rungs
    best: dict[str, Any]
    candidates: pd.DataFrame
    history: pd.DataFrame
    winner: dict[str, Any]
    metrics: dict[str, Any]

    @property
    def winning_run(self) -> pd.DataFrame:
        """The epochs of the run whose weights won."""
        of_winner = self.history["candidate"] == self.winner["candidate"]
        return self.history[of_winner & (self.history["seed"] == self.winner["seed"])]


def read_inputs(paths: Paths, searched: Domains) -> Inputs:
    """Reads every file; what a stage has not written raises FileNotFoundError."""
    manifest = read_json(paths.manifest)
    return Inputs(
        manifest=manifest,
        classes=[str(name) for name in manifest["classes"]],
        images=read_array(paths.prepare / "test_images.npy"),
        labels=read_array(paths.prepare / "test_labels.npy"),
        samples_png=paths.samples.read_bytes(),
        trials=read_trials(paths.trials_table, searched),
        curves=read_table(paths.curves_table),
        parts=read_parts(paths.search_record),
        best=read_json(paths.best),
        candidates=read_table(paths.candidates_table),
        history=read_table(paths.history_table),
        winner=read_json(paths.winner),
        metrics=read_json(paths.metrics),
    )
