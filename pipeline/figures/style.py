"""One look for every figure, and PNG bytes that depend on nothing but the drawing."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's palette: told apart by people with any of the common colour deficiencies.
BLUE, ORANGE, GREEN, SKY = "#0072B2", "#D55E00", "#009E73", "#56B4E9"
INK, MUTED, FAINT = "#1a1a1a", "#6b6b6b", "#b8b8b8"

WIDTH = 9.6  # inches, of every figure

_SETTINGS: Any = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same glyphs on every machine
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.titlelocation": "left",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.titlesize": 12,
    "figure.titleweight": "bold",
    "figure.facecolor": "white",
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "image.interpolation": "nearest",
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "savefig.dpi": 130,
    "text.color": INK,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 8,
}


@contextlib.contextmanager
def applied() -> Iterator[None]:
    """Draws with the look of this file, whatever the user's matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def figure(title: str, height: float, width: float = WIDTH, gap: float = 0.02) -> Figure:
    """An empty figure of the given size in inches, without any global state.

    `gap` is the space between panels as a share of the width.
    """
    drawing = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(wspace=gap))
    drawing.suptitle(title, x=0.01, ha="left")
    return drawing


def png(drawing: Figure) -> bytes:
    """The figure as PNG, without the version and date that would change its bytes."""
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def class_colours(count: int) -> ListedColormap:
    """One colour a class: Petroff's ten, made for colour deficiencies, beyond ten a ramp."""
    if count <= 10:
        return ListedColormap(matplotlib.color_sequences["petroff10"][:count])
    return ListedColormap(matplotlib.colormaps["turbo"](np.linspace(0.03, 0.97, count)))


def whole_numbers(axes: Axes) -> None:
    """Ticks of the horizontal axis at whole numbers only: epochs, trials, dimensions."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def bare(axes: Axes) -> None:
    """Removes ticks and frame: the axes hold pictures."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
