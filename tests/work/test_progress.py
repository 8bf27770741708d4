"""What a person sees of long work, on a terminal and in a log."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from ledgers import open_ledger
from rich.console import Console
from studies import begin, record, space

from pipeline.study.identity import Study, search_study
from pipeline.study.storage.claim import Lease
from pipeline.work import progress as module
from pipeline.work.progress import ROWS, Progress

RESULT = {"nelbo_nats": 25.125, "epochs": 2}
REASON = "RuntimeError: [enforce fail at alloc.cpp] no memory [/proc/meminfo]\nTraceback ..."


class Screen:
    """A study of 40 trials, and what its progress shows on a screen or in a log."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool,
                 width: int = 200):  # fmt: skip
        self.shown = io.StringIO()
        self.ledger = open_ledger(f"sqlite:///{folder}/ledger.db")
        sweep = space(search={"trials": 40, "parallelism": 40})
        self.study: Study = search_study(sweep, "d" * 64)
        self.ledger.open_study(self.study.id, "tiny", "search", {})

        def console(**options: Any) -> Console:
            options.pop("stderr")
            return Console(
                file=self.shown, force_terminal=terminal, color_system=None, **size, **options
            )

        size = {"width": width, "height": 24}
        monkeypatch.setattr(module, "Console", console)
        self.progress = Progress("search", sweep, self.ledger, [self.study])

    def claim(self) -> Lease:
        chosen = {"lr": 0.00123456, "hidden": [64, 32]}
        lease = begin(self.ledger, self.study.id, chosen, until=3)
        self.ledger.report(lease, [{**record(1, 20.0, 6.5), "seconds": 1.25}])
        return lease

    def finish(self, state: str = "complete", **changes: Any) -> None:
        outcome = {"result": RESULT, **changes}
        self.ledger.finish(self.claim(), state, [record(1, 20, 5.125)], **outcome)

    def new(self) -> str:
        """What has appeared since the last look."""
        self.progress.update()
        text = self.shown.getvalue()
        self.shown.seek(0)
        self.shown.truncate()
        return text


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Screen:
    return Screen(tmp_path, monkeypatch, terminal=False)


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Screen:
    return Screen(tmp_path, monkeypatch, terminal=True)


def test_a_log_gets_a_line_for_each_trial_that_finishes_from_now_on(log: Screen) -> None:
    log.finish()
    assert log.new() == ""  # it was finished before
    log.finish()
    log.finish("pruned")
    log.finish("failed", result=None, reason=REASON)
    log.claim()
    first, second, third = log.new().splitlines()
    assert first.startswith(
        "search tiny: 2/40 trial 1 complete after 2 epochs, NELBO 25.12 nats; best 25.12 nats; 0:0"
    )
    assert second.startswith("search tiny: 3/40 trial 2 pruned after 2 epochs")
    assert third.startswith(
        "search tiny: 4/40 trial 3 failed (RuntimeError: [enforce fail at alloc.cpp] no memory"
        " [/proc/meminfo]); best"
    )
    assert log.new() == ""


def test_a_trial_that_ends_before_an_earlier_one_is_shown_once(log: Screen) -> None:
    log.new()
    slow = log.claim()
    log.finish()
    assert log.new().count("trial 1 complete") == 1
    assert log.new() == ""
    log.ledger.finish(slow, "complete", [], RESULT)
    assert log.new().count("trial 0 complete") == 1


def test_a_terminal_shows_what_runs_and_the_last_that_finished(terminal: Screen) -> None:
    for _ in range(20):
        terminal.finish()
    terminal.finish("failed", result=None, reason=REASON)
    terminal.claim()
    with terminal.progress:
        text = terminal.new()
    assert "search tiny  21/40 finished  best 25.12 nats" in text
    assert "trial 21" in text
    assert "running" in text
    assert "1/3" in text  # epochs
    assert "lr 0.00123, hidden [64, 32]" in text
    assert "trial 10 " in text
    assert "trial 9 " not in text


def test_many_workers_leave_no_room_for_what_is_finished(terminal: Screen) -> None:
    for _ in range(3):
        terminal.finish()
    for _ in range(ROWS):
        terminal.claim()
    with terminal.progress:
        text = terminal.new()
    assert text.count("running") == ROWS
    assert "complete" not in text


def test_a_small_terminal_shows_notes_and_what_runs_before_what_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Screen(tmp_path, monkeypatch, terminal=True, width=70)
    for _ in range(20):
        small.finish()
    small.claim()
    small.progress.say("stopping after this step")
    with small.progress:
        text = small.new()
    assert "..." in text  # not all fits
    for shown in ("running", "trial 19 ", "stopping after this step"):
        assert shown in text


def test_a_note_is_shown_in_both(log: Screen, terminal: Screen) -> None:
    log.progress.say("stopping after this step")
    assert log.new() == "search tiny: stopping after this step\n"
    terminal.progress.say("stopping after this step")
    with terminal.progress:
        assert "stopping after this step" in terminal.new()
