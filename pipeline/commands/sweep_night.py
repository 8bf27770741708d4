"""The summary of a night: runs/nights/DATE/summary.json, and the same for people, summary.md.

It is written when the night begins and after each sweep, so that it holds of a killed night what
was done until then.
"""

from __future__ import annotations

import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.files import read_json, write_json, write_text
from pipeline.paths import Paths
from pipeline.settings import deadline
from pipeline.work.owners import is_gone, owner_name
from pipeline.work.progress import clock_time

Entry = dict[str, Any]  # of a sweep


class Night:
    """One call of `sweep`."""

    def __init__(self, folder: Path, content: dict[str, Any]):
        self.folder, self.content = folder, content

    @classmethod
    def begin(cls, root: Path, names: list[str], until: datetime | None) -> Night:
        """A folder of its own, named by the date; a second one of the day has -2 after it."""
        started = deadline.now()
        nights, date = Paths(root, "").nights, f"{started:%Y-%m-%d}"
        nights.mkdir(parents=True, exist_ok=True)
        for count in range(1, sys.maxsize):
            folder = nights / (date if count == 1 else f"{date}-{count}")
            try:
                folder.mkdir()
                break
            except FileExistsError:
                continue
        night = cls(
            folder,
            {
                "night": folder.name,
                "state": "at work",
                "started": started.isoformat(timespec="seconds"),
                "until": until.isoformat(timespec="seconds") if until else None,
                "seconds": 0.0,
                "owner": owner_name(os.getpid()),
                "sweeps": [{"name": name, "state": "waits", "why": "not begun"} for name in names],
            },
        )
        night.write()
        return night

    @property
    def name(self) -> str:
        return str(self.content["night"])

    @property
    def summary(self) -> Path:
        return self.folder / "summary.md"

    def write(self) -> None:
        """Brings the files up to what is known now."""
        if self.content["state"] != "killed":
            started = datetime.fromisoformat(self.content["started"])
            self.content["seconds"] = round((deadline.now() - started).total_seconds(), 1)
        write_json(self.folder / "summary.json", self.content)
        write_text(self.summary, night_text(self.content))

    def end(self, state: str, why: str = "") -> None:
        """The last word on the night, but for the command that follows it."""
        self.content |= {"state": state, **({"why": why} if why else {})}
        self.write()


def read_nights(root: Path) -> list[dict[str, Any]]:
    """All summaries in the order in which the nights began; of who died at work it is said.

    A damaged one keeps nobody from tonight's: it is a night without sweeps that says so.
    """
    nights = [_read(file) for file in Paths(root, "").nights.glob("*/summary.json")]
    for night in nights:
        if night["state"] == "at work" and is_gone(night["owner"]):
            _bury(night)
    return sorted(nights, key=_began)


def _read(file: Path) -> dict[str, Any]:
    try:
        night = read_json(file)
        found = {key: night[key] for key in ("state", "until", "seconds", "owner", "sweeps")}
        _began(night)
        [sweep["name"] + sweep["state"] for sweep in found["sweeps"]]
        return {**night, "night": file.parent.name}
    except (UserError, LookupError, TypeError, ValueError):
        began = datetime.fromtimestamp(file.stat().st_mtime).astimezone()
        return {"night": file.parent.name, "state": "damaged", "sweeps": [],
                "started": began.isoformat(timespec="seconds")}  # fmt: skip


def _began(night: dict[str, Any]) -> tuple[float, str]:
    """By the clock of the world: the hour before summer time ends is there twice."""
    return datetime.fromisoformat(night["started"]).timestamp(), night["night"]


def mark_killed(root: Path) -> None:
    """Writes the last word on nights whose process is no more."""
    for night in read_nights(root):
        folder = Paths(root, "").nights / night["night"]
        if night["state"] == "killed" != read_json(folder / "summary.json")["state"]:
            Night(folder, night).write()


def _bury(night: dict[str, Any]) -> None:
    night |= {"state": "killed", "why": "its process ended without a word"}
    for sweep in night["sweeps"]:
        if sweep["state"] == "at work":
            sweep |= {"state": "killed", "why": "the next night goes on where it was"}


def night_text(night: dict[str, Any]) -> str:
    """A summary in Markdown."""
    until = f", to be done by {night['until']}" if night["until"] else ""
    why = f": {night['why']}" if "why" in night else ""
    lines = [
        f"# Night {night['night']}: {night['state']}{why}",
        "",
        f"Begun {night['started']}{until}; {clock_time(night['seconds'])} used.",
    ]
    for sweep in night["sweeps"]:
        lines += ["", f"## {sweep['name']}: {sweep['state']}", "", *_sweep_lines(sweep)]
    if kept := night.get("experiment"):
        what = f"DVC's experiment {kept['name']}"
        lines += ["", f"Not kept as {what}: {kept['why']}." if kept["why"] else f"Kept as {what}."]
    if then := night.get("then"):
        lines += ["", f"Then `{then['command']}`: {then['outcome']}."]
    return "\n".join([*lines, ""])


def _sweep_lines(sweep: Entry) -> list[str]:
    lines = [f"- {sweep['why']}"] if sweep.get("why") else []
    if tried := sweep.get("tried"):
        lines.append(
            f"- tried: {tried['trials']} new trials, {tried['parts']} parts of trials and"
            f" {tried['runs']} retrainings ended, {tried['epochs']} epochs"
        )
    if trials := sweep.get("trials"):
        lines.append(
            f"- outputs: {trials['after'] or 0} trials, {trials['before'] or 0} before,"
            f" {trials['asked']} asked for"
        )
    if winner := sweep.get("winner"):
        lines.append(
            f"- winner: {winner_text(winner['after'])}; before {winner_text(winner['before'])}"
        )
        lines.append(f"- evidence: {winner['gain']['evidence']}")
    lines += [f"- failed: {failure}" for failure in sweep.get("failures", [])]
    if sweep.get("tracking"):
        lines.append(f"- {sweep['tracking']}")
    if "seconds" in sweep:
        lines.append(f"- time: {clock_time(sweep['seconds'])}")
    return lines


def winner_text(winner: dict[str, Any] | None) -> str:
    """A winner in a line."""
    if winner is None:
        return "none"
    test = winner["test_nelbo_nats"]
    measured = f", test {test:.2f}" if test is not None else ""
    which = "the only setting" if winner["trial"] is None else f"trial {winner['trial']}"
    return (
        f"{which}, validation NELBO {winner['validation_nelbo_nats']:.2f} nats on"
        f" {winner['seeds']} seeds{measured}"
    )
