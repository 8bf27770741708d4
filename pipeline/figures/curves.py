"""Figures of training: curves over epochs, and what every latent dimension carries."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.figures import style
from pipeline.figures.passes import Array
from pipeline.figures.trials import ceiling
from pipeline.results.keys import PARTS, TRAIN
from pipeline.vae.measure import ACTIVE_VARIANCE

TITLES = dict(zip(PARTS, ("NELBO", "reconstruction", "KL"), strict=True))
SPLITS = {"train": (TRAIN, style.ORANGE), "validation": ("", style.BLUE)}


def smooth(values: pd.Series, window: int) -> pd.Series:
    """Centred moving average; at the ends over the epochs that exist."""
    return values.rolling(window, min_periods=1, center=True).mean()


def training(run: pd.DataFrame, window: int, best_epoch: int | None) -> Figure:
    """Curves of one run: train and validation, total and parts, raw and smoothed; rate; units."""
    window = min(window, max(1, len(run) // 3))  # a longer one would flatten a short run
    average = f": raw (thin) and moving average over {window} epochs (bold)" if window > 1 else ""
    drawing = style.figure(f"Training of the winner{average}", 5.6)
    grid = drawing.subplots(2, 3).ravel()
    for axes, (column, title) in zip(grid, TITLES.items(), strict=False):
        for name, (prefix, ink) in SPLITS.items():
            values = run[prefix + column]
            axes.plot(run["epoch"], values, color=ink, alpha=0.45, linewidth=0.8)
            axes.plot(run["epoch"], smooth(values, window), color=ink, label=name)
        if best_epoch is not None:
            axes.axvline(best_epoch, color=style.MUTED, linestyle=":", label="best epoch")
        _finish(axes, title, "nats per image")
    grid[0].legend()
    grid[3].step(run["epoch"], run["lr"], where="mid", color=style.INK)
    grid[3].set_yscale("log")
    # a cosine ends at 0: what is below a thousandth is not worth its decades
    highest = run["lr"].max()
    grid[3].set_ylim(max(run["lr"].min() / 2, highest / 1000), 1.5 * highest)
    _finish(grid[3], "learning rate", "learning rate")
    grid[4].step(run["epoch"], run["active_units"], where="mid", color=style.INK)
    grid[4].set_ylim(bottom=0)
    _finish(grid[4], "active latent units", "units")
    gap = run["nelbo_nats"] - run["train_nelbo_nats"]
    grid[5].axhline(0, color=style.FAINT, linewidth=0.8)
    grid[5].plot(run["epoch"], smooth(gap, window), color=style.GREEN)
    _finish(grid[5], "generalization gap (smoothed)", "validation − train, nats")
    return drawing


def candidates(history: pd.DataFrame, table: pd.DataFrame, winner: object) -> Figure:
    """Validation NELBO of every retrained run; how far every candidate is behind the lowest mean.

    The second panel needs two candidates on two seeds or more.
    """
    drawing = style.figure("Retrained candidates", 3.4)
    behind = table.dropna(subset="low_difference_nats")
    panels = drawing.subplots(1, 1 if behind.empty else 2, squeeze=False).ravel()
    _seeds(panels[0], history, winner)
    if not behind.empty:
        _intervals(panels[1], table, winner)
    return drawing


def units(by_model: dict[str, tuple[Array, Array]]) -> Figure:
    """KL and activity of every latent dimension, (latent,) each, sorted by KL."""
    drawing = style.figure("What every latent dimension carries (test images)", 3.4)
    left, right = drawing.subplots(1, 2)
    inks = (style.ORANGE, style.BLUE)
    for ink, (label, (kl, activity)) in zip(inks, by_model.items(), strict=True):
        rank = np.arange(1, kl.size + 1)
        left.plot(rank, np.sort(kl)[::-1], "o-", markersize=3, color=ink, label=label)
        right.plot(rank, np.sort(activity)[::-1], "o-", markersize=3, color=ink, label=label)
    left.set_ylim(bottom=0)
    left.legend()
    right.set_yscale("log")
    right.axhline(ACTIVE_VARIANCE, color=style.MUTED, linestyle="--", linewidth=0.8,
                  label=f"active above {ACTIVE_VARIANCE:g}")  # fmt: skip
    right.legend()
    for axes, title, name in (
        (left, "KL of the dimension", "nats per image"),
        (right, "variance of the posterior mean over images", "variance"),
    ):
        axes.set(title=title, xlabel="latent dimension, sorted", ylabel=name)
        style.whole_numbers(axes)
        axes.grid(axis="y")
    return drawing


def _seeds(axes: Axes, history: pd.DataFrame, winner: object) -> None:
    for (candidate, _), run in history.groupby(["candidate", "seed"], sort=True):
        ink, order = (style.BLUE, 3) if candidate == winner else (style.FAINT, 2)
        axes.plot(run["epoch"], run["nelbo_nats"], color=ink, zorder=order, linewidth=1)
    low, top = history["nelbo_nats"].min(), ceiling(history["nelbo_nats"])
    axes.set_ylim(low - 0.05 * (top - low) - 1e-9, top + 1e-9)
    if history["candidate"].nunique() > 1:
        axes.legend([Line2D([], [], color=style.BLUE), Line2D([], [], color=style.FAINT)],
                    ["winner", "other candidates"])  # fmt: skip
    _finish(axes, "every seed", "validation NELBO, nats per image")


def _intervals(axes: Axes, table: pd.DataFrame, winner: object) -> None:
    """Paired differences from the lowest mean, which itself stands at 0."""
    measured = table.dropna(subset="mean_nelbo_nats")
    axes.axvline(0, color=style.FAINT, linewidth=0.8)
    for place, row in enumerate(measured.to_dict("records")):
        ink = style.BLUE if row["candidate"] == winner else style.MUTED
        axes.plot([row["low_difference_nats"], row["high_difference_nats"]], [place] * 2, color=ink)
        gap = row["difference_nats"]
        axes.plot(0 if pd.isna(gap) else gap, place, "o", color=ink)
    axes.set_yticks(range(len(measured)), labels=measured["candidate"].map("candidate {}".format))
    axes.set(title="behind the lowest mean, with 95 % intervals", ylim=(len(measured) - 0.5, -0.5),
             xlabel="difference of validation NELBO, nats per image")  # fmt: skip
    axes.grid(axis="x")


def _finish(axes: Axes, title: str, unit: str) -> None:
    axes.set(title=title, xlabel="epoch", ylabel=unit)
    style.whole_numbers(axes)
    axes.grid(axis="y")
