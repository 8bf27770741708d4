"""Figures of the search: its history, its curves, its hyperparameters, its Pareto front."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from pipeline.figures import style
from pipeline.figures.importance import Importance
from pipeline.figures.trials import Domains, ceiling, finished, scaled, show_value
from pipeline.results.states import RANKED, State
from pipeline.settings.hyperparameters import Choices, Domain

UNIT = "validation NELBO, nats per image"
LOOK = {  # the ink of a trial, how its dot is filled, and how its curve ends
    State.COMPLETE: (style.BLUE, "full", None),
    State.PAUSED: (style.SKY, "none", "o"),
    State.PRUNED: (style.ORANGE, "none", "x"),
}


def history(trials: pd.DataFrame, best: int | None) -> Figure:
    """Every trial in the order of its number, and the best one so far that may be ranked."""
    drawing = style.figure("Optimization history", 3.6)
    axes = drawing.subplots()
    table = finished(trials)
    top = ceiling(table["nelbo_nats"])
    _dots(axes, table["number"], table, top, best)
    failed = trials.loc[trials["state"] == State.FAILED, "number"]
    if len(failed):
        axes.plot(failed, [top] * len(failed), "+", color=style.MUTED, label=State.FAILED)
    ranked = table[table["state"].isin(RANKED)].sort_values("number")
    if len(ranked):
        value = ranked["nelbo_nats"].cummin()
        axes.step([*ranked["number"], trials["number"].max()], [*value, value.iloc[-1]],
                  where="post", color=style.INK, linewidth=1.2, zorder=1,
                  label="best so far")  # fmt: skip
    axes.set(xlabel="trial", ylabel=UNIT)
    style.whole_numbers(axes)
    axes.grid(axis="y")
    drawing.legend(*_unique_legend(axes), loc="outside right upper")
    return drawing


def intermediate(
    curves: pd.DataFrame, trials: pd.DataFrame, best: int | None, rungs: Sequence[int]
) -> Figure:
    """Validation NELBO of every trial over its epochs.

    Paused ones end in a ring, at a rung (dotted lines); pruned ones end in a cross.
    """
    drawing = style.figure("Learning curves of all trials", 3.6)
    axes = drawing.subplots()
    states = trials.set_index("number")["state"]
    for rung in rungs[:-1]:
        axes.axvline(rung, color=style.FAINT, linestyle=":", linewidth=0.8, zorder=0)
    for number, run in curves.sort_values("epoch").groupby("number"):
        label = states.get(number) if states.get(number) in LOOK else State.FAILED
        ink, _, marker = LOOK.get(label, (style.FAINT, "none", None))
        width, order = 0.9, 3 if label == State.PRUNED else 2
        if number == best:
            label, ink, width, order = "best trial", style.INK, 2.0, 4
        axes.plot(run["epoch"], run["nelbo_nats"], color=ink, linewidth=width, zorder=order,
                  marker=marker, markevery=[len(run) - 1], markersize=4.5,
                  markerfacecolor="white", label=label)  # fmt: skip
    last = curves.sort_values("epoch").groupby("number")["nelbo_nats"].last()
    low, top = curves["nelbo_nats"].min(), max(ceiling(last), ceiling(curves["nelbo_nats"]))
    axes.set_ylim(low - 0.04 * (top - low) - 1e-9, top + 1e-9)
    axes.set(xlabel="epoch", ylabel=UNIT)
    style.whole_numbers(axes)
    axes.grid(axis="y")
    drawing.legend(*_unique_legend(axes), loc="outside right upper")
    return drawing


def importances(result: Importance) -> Figure:
    """Bars of the hyperparameters' shares."""
    shares = result.shares[::-1]
    drawing = style.figure("Hyperparameter importance", 1.3 + 0.28 * len(shares))
    axes = drawing.subplots()
    ink = style.BLUE if result.trusted else style.FAINT
    axes.barh(list(shares.index), shares.to_numpy() * 100, color=ink, height=0.65)
    for row, share in enumerate(shares):
        axes.annotate(f"{share:.0%}", (share * 100, row), xytext=(3, 0), va="center",
                      textcoords="offset points", fontsize=8)  # fmt: skip
    trust = "" if result.trusted else ": not to be trusted"
    axes.set_title(
        f"permutation importance of a random forest for the rank of {result.trials} trials"
        f"{_after(result.epochs)}; out-of-bag R² {result.out_of_bag:.2f}{trust}"
    )
    axes.set(xlabel="share, %", xlim=(0, max(1, shares.max() * 110)))
    axes.grid(axis="x")
    return drawing


def _after(epochs: Sequence[int]) -> str:
    """Where trials were compared; nothing where that is not known."""
    return f" after epoch {' or '.join(map(str, epochs))}" if any(epochs) else ""


def slices(trials: pd.DataFrame, searched: Domains, best: int | None) -> Figure:
    """NELBO against every hyperparameter by itself."""
    columns = min(4, len(searched))
    rows = math.ceil(len(searched) / columns)
    drawing = style.figure("Slices: every hyperparameter by itself", 0.9 + 2.5 * rows)
    grid = drawing.subplots(rows, columns, squeeze=False, sharey=True)
    table = finished(trials)
    top = ceiling(table["nelbo_nats"])
    for axes, (name, domain) in zip(grid.ravel(), searched.items(), strict=False):
        _dots(axes, _across(table, name, domain), table, top, best)
        _label_across(axes, name, domain)
        axes.grid(axis="y")
    for axes in grid[:, 0]:
        axes.set_ylabel("validation NELBO, nats")
    for axes in grid.ravel()[len(searched) :]:
        axes.set_visible(False)
    drawing.legend(*_unique_legend(grid[0, 0]), loc="outside lower center", ncols=3)
    return drawing


def parallel(trials: pd.DataFrame, searched: Domains, best: int | None) -> Figure:
    """Parallel coordinates of the complete trials, the best trial last, over those that were
    paused or pruned, which have seen fewer epochs.

    Without complete trials the paused ones take their place. A conditional hyperparameter that
    does not exist stands below its axis.
    """
    table = finished(trials).sort_values("nelbo_nats", ascending=False)
    drawing = style.figure("Parallel coordinates of all finished trials", 4.2)
    axes = drawing.subplots()
    heights = [scaled(table[name], domain).fillna(-0.12) for name, domain in searched.items()]
    states = set(table["state"])
    shown = next(state for state in (*RANKED, State.PRUNED) if state in states)
    coloured = (table["state"] == shown).to_numpy()
    values = table["nelbo_nats"]
    low, high = float(values.min()), ceiling(values[coloured])
    high = max(high, low)
    norm = Normalize(low, high)
    heights.append(((values - low) / (high - low or 1)).clip(upper=1))
    lines = np.stack(
        np.broadcast_arrays(np.arange(len(heights)), np.column_stack(heights)), axis=-1
    )  # (trials, axes, 2)
    colours = matplotlib.colormaps["viridis"]
    for state, dashes in ((State.PAUSED, "-"), (State.PRUNED, "--")):
        these = (table["state"] == state).to_numpy() & ~coloured
        if these.any():
            axes.add_collection(LineCollection(list(lines[these]), colors=style.FAINT,
                                               linestyles=dashes, linewidths=0.9,
                                               label=state))  # fmt: skip
    axes.add_collection(LineCollection(list(lines[coloured]), linewidths=1.1,
                                       colors=colours(norm(values[coloured]))))  # fmt: skip
    if (ours := (table["number"] == best).to_numpy()).any():
        axes.plot(*lines[ours][0].T, color=style.ORANGE, linewidth=2.2, label="best trial")
    for place, (name, domain) in enumerate(searched.items()):
        _vertical(axes, place, _marks(domain), missing=bool(table[name].isna().any()))
    _vertical(axes, len(searched), _value_marks(low, high), missing=False)
    axes.set_xticks(range(len(searched) + 1), labels=[*searched, "NELBO, nats"])
    axes.set(xlim=(-0.3, len(searched) + 0.5), ylim=(-0.2, 1.06), yticks=[])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    bar = drawing.colorbar(ScalarMappable(norm, colours), ax=axes, pad=0.01)
    bar.set_label(UNIT)
    axes.legend(loc="lower left", bbox_to_anchor=(0, -0.02))
    return drawing


def pareto(trials: pd.DataFrame, front: list[int]) -> Figure:
    """Rate against distortion; the front, and dashed lines of equal NELBO."""
    table = trials[trials["state"] == State.COMPLETE]
    drawing = style.figure("Rate and distortion: the Pareto front", 4.4)
    axes = drawing.subplots()
    axes.plot(table["kl_nats"], table["recon_nats"], "o", color=style.SKY, label="trial")
    best = table[table["number"].isin(front)].sort_values("kl_nats")
    axes.plot(best["kl_nats"], best["recon_nats"], "o-", color=style.BLUE, label="Pareto front")
    axes.margins(0.08)
    low, top = table["recon_nats"].min(), ceiling(table["recon_nats"])
    top = max(top, best["recon_nats"].max())
    axes.set_ylim(low - 0.08 * (top - low) - 0.1, top + 0.08 * (top - low) + 0.1)
    _equal_nelbo(axes)
    axes.set(xlabel="rate: KL, nats per image", ylabel="distortion: reconstruction, nats per image")
    drawing.legend(*_unique_legend(axes), loc="outside right upper")
    return drawing


def _equal_nelbo(axes: Axes) -> None:
    """Dashed lines KL + reconstruction = constant, named at their right ends."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    for level in MaxNLocator(8).tick_values(left + low, right + high):
        axes.axline((left, level - left), slope=-1, color=style.FAINT, linestyle="--",
                    linewidth=0.8, zorder=0)  # fmt: skip
        if low < level - right < high:
            axes.annotate(f"NELBO {level:.4g}", (right, level - right), xytext=(4, 0),
                          textcoords="offset points", va="center", fontsize=7.5,
                          color=style.MUTED)  # fmt: skip


def _dots(axes: Axes, x: pd.Series, table: pd.DataFrame, top: float, best: int | None) -> None:
    """Trials by state; those above the axis stand at its upper edge as triangles.

    Trials without an x, in which the hyperparameter does not exist, are left out.
    """
    table, x = table[x.notna()], x.dropna()
    for state, (ink, fill, _) in LOOK.items():
        chosen = table["state"] == state
        if not chosen.any():
            continue
        beyond = chosen & (table["nelbo_nats"] > top)
        inside = chosen & ~beyond
        axes.plot(x[inside], table.loc[inside, "nelbo_nats"], "o", color=ink, fillstyle=fill,
                  markersize=5, label=state)  # fmt: skip
        axes.plot(x[beyond], [top] * int(beyond.sum()), "^", color=ink, fillstyle=fill)
    ours = table["number"] == best
    axes.plot(x[ours], table.loc[ours, "nelbo_nats"], "*", color=style.INK, markersize=11,
              label="best trial")  # fmt: skip


def _across(table: pd.DataFrame, name: str, domain: Domain) -> pd.Series:
    """Values of a range; of choices the index, moved a little so that trials do not hide."""
    if not isinstance(domain, Choices):
        return table[name]
    return table[name] + 0.3 * (table["number"] * 0.618034 % 1 - 0.5)


def _label_across(axes: Axes, name: str, domain: Domain) -> None:
    axes.set_xlabel(name)
    if isinstance(domain, Choices):
        labels = [show_value(choice) for choice in domain.choices]
        long = sum(map(len, labels)) > 22
        axes.set_xticks(range(len(labels)), labels=labels)
        axes.tick_params(axis="x", rotation=30 if long else 0)
        axes.set_xlim(-0.5, len(labels) - 0.5)
    elif domain.log:
        axes.set_xscale("log")
        places = [domain.low, math.sqrt(domain.low * domain.high), domain.high]
        axes.set_xticks(places, labels=[f"{place:.2g}" for place in places])
        axes.minorticks_off()
    elif domain.integer:
        style.whole_numbers(axes)


def _marks(domain: Domain) -> list[tuple[float, str]]:
    """Heights and names on the vertical axis of a hyperparameter."""
    if isinstance(domain, Choices):
        places = np.arange(len(domain.choices)) / max(1, len(domain.choices) - 1)
        return [(float(p), show_value(c)) for p, c in zip(places, domain.choices, strict=True)]
    middle = math.sqrt(domain.low * domain.high) if domain.log else (domain.low + domain.high) / 2
    return [(p, f"{v:.3g}") for p, v in zip((0, 0.5, 1), (domain.low, middle, domain.high),
                                            strict=True)]  # fmt: skip


def _value_marks(low: float, high: float) -> list[tuple[float, str]]:
    return [(p, f"{low + p * (high - low):.4g}") for p in (0.0, 0.5, 1.0)]


def _vertical(axes: Axes, place: int, marks: list[tuple[float, str]], missing: bool) -> None:
    axes.plot([place, place], [0, 1], color=style.MUTED, linewidth=0.8)
    halo = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
    for height, name in marks + ([(-0.12, "none")] if missing else []):
        axes.annotate(name, (place, height), xytext=(5, 0), textcoords="offset points",
                      va="center", fontsize=7.5, bbox=halo)  # fmt: skip


def _unique_legend(axes: Axes) -> tuple[list[Line2D], list[str]]:
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    return list(unique.values()), list(unique)
