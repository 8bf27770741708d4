"""Progress of long work: a live table on a terminal, a line per finished trial elsewhere."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipeline.config import Space
from pipeline.study.identity import Study
from pipeline.study.ledger import Ledger, Trial

ROWS = 12


class Progress:
    """Shows what the ledger says of some studies."""

    def __init__(self, stage: str, space: Space, ledger: Ledger, studies: list[Study]):
        self._title = f"{stage} {space.name}"
        self._ledger = ledger
        self._studies = studies
        self._console = Console(stderr=True, markup=False)  # a reason may hold [brackets]
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._started = time.monotonic()
        self._finished: dict[tuple[str, int], Trial] = {}
        self._at_start: int | None = None
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
        """Shows a message from now on."""
        self._note = note
        if not self._console.is_terminal:
            with suppress(OSError):
                self._console.print(f"{self._title}: {note}", highlight=False)

    def update(self) -> None:
        """Reads the ledger and shows what is new, if anyone still looks."""
        with suppress(OSError):  # a closed terminal or pipe; the work goes on
            self._update()

    def _update(self) -> None:
        running: list[Trial] = []
        for study in self._studies:
            for trial in self._unfinished(study):
                if trial.state == "running":
                    running.append(trial)
                else:
                    self._take(study, trial)
        if self._at_start is None:
            self._at_start = len(self._finished)
        if self._console.is_terminal:
            self._live.update(self._table(running), refresh=True)

    def _unfinished(self, study: Study) -> list[Trial]:
        """The trials from the first that was not finished at the last look."""
        first = 0
        while (study.id, first) in self._finished:
            first += 1
        trials = self._ledger.trials(study.id, first, study.budget - 1)
        return [trial for trial in trials if (study.id, trial.number) not in self._finished]

    def _take(self, study: Study, trial: Trial) -> None:
        self._finished[study.id, trial.number] = trial
        if not self._console.is_terminal and self._at_start is not None:
            self._console.print(
                f"{self._title}: {len(self._finished)}/{self._budget()} {_label(study, trial)}"
                f" {_outcome(trial)}; best {self._best()}; {self._eta()}",
                highlight=False,
                soft_wrap=True,
            )

    def _budget(self) -> int:
        return sum(study.budget for study in self._studies)

    def _best(self) -> str:
        values = [
            trial.result["nelbo_nats"]
            for trial in self._finished.values()
            if trial.state == "complete" and trial.result
        ]
        return f"{min(values):.2f} nats" if values else "none yet"

    def _eta(self) -> str:
        done = len(self._finished) - (self._at_start or 0)
        elapsed = time.monotonic() - self._started
        if not done:
            return f"{clock_time(elapsed)} elapsed"
        left = elapsed / done * (self._budget() - len(self._finished))
        return f"{clock_time(elapsed)} elapsed, about {clock_time(left)} left"

    def _table(self, running: list[Trial]) -> Group:
        table = Table(title=None, pad_edge=False)
        for heading in ("trial", "state", "epoch", "NELBO (nats)", "s/epoch", "parameters"):
            table.add_column(heading, overflow="fold")
        by_id = {study.id: study for study in self._studies}
        hidden = max(0, len(self._finished) - max(0, ROWS - len(running)))
        recent = list(self._finished.values())[hidden:]
        for trial in [*recent, *running]:
            table.add_row(*_row(by_id[trial.study], trial))
        head = Text(
            f"{self._title}  {len(self._finished)}/{self._budget()} finished  best {self._best()}"
            f"  {self._eta()}",
            style="bold",
        )
        return Group(head, table, Text(self._note, style="yellow"))


def _label(study: Study, trial: Trial) -> str:
    if study.kind == "search":
        return f"trial {trial.number}"
    return f"candidate {study.id.rsplit('-', 1)[1][:6]} seed {trial.number}"


def _outcome(trial: Trial) -> str:
    if trial.state == "failed":
        return f"failed ({(trial.reason or '').splitlines()[0]})"
    assert trial.result is not None
    epochs = trial.result["epochs"]
    return f"{trial.state} after {epochs} epochs, NELBO {trial.result['nelbo_nats']:.2f} nats"


def _row(study: Study, trial: Trial) -> list[str]:
    last = trial.curve[-1] if trial.curve else {}
    value = (trial.result or last).get("nelbo_nats")
    parameters = trial.parameters if study.kind == "search" else {}
    return [
        _label(study, trial),
        trial.state,
        f"{len(trial.curve)}/{study.epochs}",
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
