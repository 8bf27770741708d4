"""Everything that the figures are drawn from: the files of the earlier stages, read once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.figures.passes import Array
from pipeline.figures.trials import Domains, read_trials
from pipeline.paths import Paths, read_array, read_json, read_table


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
    manifest = read_json(paths.prepare / "manifest.json")
    return Inputs(
        manifest=manifest,
        classes=[str(name) for name in manifest["classes"]],
        images=read_array(paths.prepare / "test_images.npy"),
        labels=read_array(paths.prepare / "test_labels.npy"),
        samples_png=(paths.prepare / "samples.png").read_bytes(),
        trials=read_trials(paths.search / "trials.csv", searched),
        curves=read_table(paths.search / "curves.csv"),
        best=read_json(paths.search / "best.json"),
        candidates=read_table(paths.retrain / "candidates.csv"),
        history=read_table(paths.retrain / "history.csv"),
        winner=read_json(paths.retrain / "winner.json"),
        metrics=read_json(paths.evaluate / "metrics.json"),
    )
