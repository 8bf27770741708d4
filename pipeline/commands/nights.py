"""What `nights` shows: the history of `sweep`, as a table and as a figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.commands.list import table
from pipeline.commands.sweep_night import read_nights
from pipeline.files import atomic_path
from pipeline.paths import Paths
from pipeline.work.progress import clock_time

COLUMNS = ("night", "sweep", "outcome", "trials", "epochs", "winner", "gain", "failed", "time")


def nights_text(root: Path) -> str:
    """A line for each sweep of each night, in order: NELBOs of validation, in nats."""
    rows = [COLUMNS, *(row for night in read_nights(root) for row in _rows(night))]
    if len(rows) == 1:
        return "no night yet: `python -m pipeline sweep NAME --until 07:00`"
    return table(rows)


def draw(root: Path) -> Path | None:
    """Draws the winners by night; None: there is none yet."""
    series: dict[str, list[tuple[str, float, bool]]] = {}
    nights = read_nights(root)
    for night in nights:
        for sweep in night["sweeps"]:
            winner = sweep.get("winner") or {}
            if after := winner.get("after"):
                point = (
                    night["night"],
                    after["validation_nelbo_nats"],
                    winner["gain"]["is_better"],
                )
                series.setdefault(sweep["name"], []).append(point)
    if not series:
        return None
    from pipeline.figures.nights import nights_figure

    file = Paths(root, "").nights / "nights.png"
    with atomic_path(file) as temporary:
        temporary.write_bytes(nights_figure([night["night"] for night in nights], series))
    return file


def _rows(night: dict[str, Any]) -> list[tuple[str, ...]]:
    if night["state"] == "damaged":
        said = "its summary.json is damaged: remove it"
        return [(night["night"], "", said, *[""] * (len(COLUMNS) - 3))]
    return [
        (
            night["night"],
            sweep["name"],
            sweep["state"],
            _trials(sweep),
            str(sweep["tried"]["epochs"]) if "tried" in sweep else "",
            _winner(sweep),
            _gain(sweep),
            str(len(sweep["failures"])) if sweep.get("failures") else "",
            clock_time(sweep["seconds"]) if "seconds" in sweep else "",
        )
        for sweep in night["sweeps"]
    ]


def _trials(sweep: dict[str, Any]) -> str:
    trials = sweep.get("trials")
    return f"{trials['after'] or 0} of {trials['asked']}" if trials else ""


def _winner(sweep: dict[str, Any]) -> str:
    after = (sweep.get("winner") or {}).get("after")
    return f"{after['validation_nelbo_nats']:.2f}" if after else ""


def _gain(sweep: dict[str, Any]) -> str:
    gain = (sweep.get("winner") or {}).get("gain") or {}
    if gain.get("low") is None:
        return ""
    return f"{gain['nats']:+.2f} ({gain['low']:.2f} … {gain['high']:.2f})"
