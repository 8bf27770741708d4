"""Progress of long work: a live table on a terminal, a line per finished trial elsewhere."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipeline.results.states import Kind, State
from pipeline.settings.space import Space
from pipeline.study.identity import Study
from pipeline.study.search.forecast import forecast
from pipeline.study.storage.ledger import Ledger
from pipeline.study.storage.outages import StorageAway
from pipeline.study.storage.rows import Part
from pipeline.study.watch import Stage, races

ROWS = 12


class Progress:
    """Shows what the ledger says of some studies."""

    def __init__(self, stage: str, space: Space, ledger: Ledger, studies: list[Study]):
        self._title = f"{stage} {space.name}"
        self._studies = studies
        self._stage = Stage(ledger, studies, space)
        self._racing = races(space, studies)
        self._console = Console(stderr=True, markup=False)  # a reason may hold [brackets]
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._started = time.monotonic()
        self._finished: dict[tuple[str, int], Part] = {}
        self._rests: dict[tuple[str, int], bool] = {}  # whether nobody is at work on a trial
        self._at_start: int | None = None
        self._epochs_at_start = 0
        self._foreseen: int | None = None  # epochs of a search with rungs
        self._note = ""

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            with suppress(OSError):
                self._live.stop()

    def say(self, note: str) -> None:
        """Shows a message from now on; the same once more is no news."""
        if note == self._note:
            return
        self._note = note
        if note and not self._console.is_terminal:
            with suppress(OSError):
                self._console.print(f"{self._title}: {note}", highlight=False)

    def update(self) -> None:
        """Reads the ledger and shows what is new, if anyone still looks."""
        with suppress(OSError, StorageAway):  # a closed terminal or pipe; the work goes on
            self._update()

    def _update(self) -> None:
        running: list[Part] = []
        self._stage.refresh()
        for watch in self._stage.watches:
            for part in watch.parts:
                if part.state == State.RUNNING:
                    running.append(part)
                    self._rests[part.study, part.trial] = False
                elif (part.study, part.number) not in self._finished:
                    self._take(part)
        if self._at_start is None:
            self._at_start, self._epochs_at_start = self._done(), self._epochs()
        if self._console.is_terminal:
            self._live.update(self._table(running), refresh=True)

    def _take(self, part: Part) -> None:
        self._finished[part.study, part.number] = part
        self._rests[part.study, part.trial] = True
        if not self._console.is_terminal and self._at_start is not None:
            self._console.print(
                f"{self._title}: {self._done()}/{self._budget()} {self._label(part)}"
                f" {_outcome(part)}; best {self._best()}; {self._eta()}",
                highlight=False,
                soft_wrap=True,
            )

    def _label(self, part: Part) -> str:
        """A candidate by its place in the ranking, as in the report."""
        place = [study.id for study in self._studies].index(part.study)
        if self._studies[place].kind == Kind.SEARCH:
            return f"trial {part.trial}"
        return f"candidate {place} seed {part.trial}"

    def _done(self) -> int:
        """How many trials nobody is at work on; a paused one may go on."""
        return sum(self._rests.values())

    def _budget(self) -> str:
        most = sum(study.budget for study in self._studies)
        return f"at most {most}" if self._racing else f"{most}"

    def _best(self) -> str:
        values = [
            trial.result["nelbo_nats"]
            for trial in self._finished.values()
            if trial.state in (State.COMPLETE, State.PAUSED) and trial.result
        ]
        return f"{min(values):.2f} nats" if values else "none yet"

    def _eta(self) -> str:
        """By epochs: trials that paused early say little of those that go on."""
        epochs = self._epochs()
        done = epochs - self._epochs_at_start
        elapsed = time.monotonic() - self._started
        if done <= 0:
            return f"{clock_time(elapsed)} elapsed"
        left = elapsed / done * max(0, self._planned() - epochs)
        return f"{clock_time(elapsed)} elapsed, about {clock_time(left)} left"

    def _epochs(self) -> int:
        """Of all that has ended."""
        return sum(part.epochs - part.since for part in self._finished.values())

    def _planned(self) -> float:
        """How many epochs there will be, at the pace of those trials that ended."""
        watch = self._stage.watches[0]
        study, search = watch.study, watch.space.search
        if study.kind == Kind.CANDIDATE:
            return self._stage.foreseen
        if len(search.pauses) > 1:
            kept = [part for part in watch.parts if part.kept]
            self._foreseen = self._foreseen or forecast(watch.space, begins_with=kept).epochs
            return self._foreseen
        ended = [part for part in watch.parts if part.state != State.RUNNING]
        pace = sum(part.epochs for part in ended) / len(ended) if ended else study.epochs
        return min(study.budget * pace, study.total_epochs or math.inf)

    def _table(self, running: list[Part]) -> Group:
        """What matters comes first, as a small terminal cuts off the end."""
        table = Table(title=None, pad_edge=False)
        for heading in ("trial", "state", "epoch", "NELBO (nats)", "s/epoch", "parameters"):
            table.add_column(heading, overflow="fold")
        by_id = {study.id: study for study in self._studies}
        hidden = max(0, len(self._finished) - max(0, ROWS - len(running)))
        recent = list(self._finished.values())[hidden:]
        for part in [*running, *reversed(recent)]:
            table.add_row(self._label(part), *_row(by_id[part.study], part))
        head = Text(
            f"{self._title}  {self._done()}/{self._budget()} finished  best {self._best()}"
            f"  {self._eta()}",
            style="bold",
        )
        return Group(head, Text(self._note, style="yellow"), table)


def _outcome(part: Part) -> str:
    if part.state == State.FAILED:
        return f"failed ({(part.reason or '').splitlines()[0]})"
    assert part.result is not None
    epochs = part.result["epochs"]
    return f"{part.state} after {epochs} epochs, NELBO {part.result['nelbo_nats']:.2f} nats"


def _row(study: Study, part: Part) -> list[str]:
    last = part.curve[-1] if part.curve else {}
    value = (part.result or last).get("nelbo_nats")
    parameters = part.parameters if study.kind == Kind.SEARCH else {}
    return [
        part.state,
        f"{len(part.curve)}/{part.until or study.epochs}",
        f"{value:.2f}" if value is not None else "",
        f"{last['seconds']:.1f}" if "seconds" in last else "",
        ", ".join(f"{name} {_short(value)}" for name, value in (parameters or {}).items()),
    ]


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def clock_time(seconds: float) -> str:
    """A duration as 4:05 or 1:04:05."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
