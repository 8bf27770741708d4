"""The winners of sweeps by night."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from pipeline.figures.style import BLUE, GREEN, MUTED, ORANGE, SKY, WIDTH, applied, png

COLOURS = (BLUE, ORANGE, GREEN, SKY)


def nights_figure(
    nights: Sequence[str], series: Mapping[str, Sequence[tuple[str, float, bool]]]
) -> bytes:
    """A PNG with a panel for each sweep: night, validation NELBO of its winner in nats, and
    whether that was a gain beyond noise (filled) or not (open)."""
    with applied():
        figure = Figure(figsize=(WIDTH, 0.6 + 1.9 * len(series)), layout="constrained")
        panels = figure.subplots(len(series), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (name, points), colour in zip(
            panels, series.items(), [*COLOURS] * len(series), strict=False
        ):
            at = [nights.index(night) for night, _, _ in points]
            values = [value for _, value, _ in points]
            faces = [colour if better else "white" for _, _, better in points]
            axes.plot(at, values, color=MUTED, linewidth=0.8, zorder=1)
            axes.scatter(at, values, c=faces, edgecolors=colour, zorder=2)
            axes.set_title(f"{name}: the winner's validation NELBO (nats); filled: a gain")
            axes.grid(axis="y")
        panels[-1].set_xticks(range(len(nights)), nights, rotation=30, ha="right")
        return png(figure)
