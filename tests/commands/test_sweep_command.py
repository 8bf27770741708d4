"""Nights: what a summary says, who may work when, and what ends with which exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from crews import ROOT, eventually, no_one_left
from postgres import Postgres
from surroundings import ARITHMETIC, free_port
from worked import SPACE, Worked

from pipeline.commands import sweep as sweeping
from pipeline.commands.sweep_night import read_nights
from pipeline.commands.sweep_standing import Winner, gained
from pipeline.errors import OutOfTime, UserError
from pipeline.files import write_json
from pipeline.paths import Paths
from pipeline.settings import deadline
from pipeline.settings.machine import Machine
from pipeline.settings.space import Space
from pipeline.study.storage import turn
from pipeline.study.storage.ledger import Ledger
from pipeline.study.storage.turn import TURNS, leave_turn, renewed, take_turn
from pipeline.work.owners import owner_name

MONDAY = datetime(2026, 3, 2, 22, 0).astimezone()
Answer = Callable[..., Space]


@pytest.fixture
def desk(tmp_path: Path) -> Worked:
    """A checkout with the sweeps a and b, in which nothing has run."""
    (tmp_path / "search_spaces").mkdir()
    for name in "ab":
        (tmp_path / "search_spaces" / f"{name}.yaml").write_text(yaml.safe_dump(SPACE))
    (tmp_path / "machine.yaml").write_text("workers: 1\ntracking: none\ndevice: cpu\n")
    return Worked(tmp_path)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets the clock to the evening of a day of that week; it goes on from there."""
    now = deadline.now

    def turn_to(day: int) -> None:
        ahead = MONDAY + timedelta(days=day) - now()
        monkeypatch.setattr(deadline, "now", lambda: now() + ahead)

    return turn_to


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[[Answer], None]:
    """Puts something else in the place of all the work."""
    return lambda answer: monkeypatch.setattr(sweeping, "answer", answer)


def summary(desk: Worked, night: str = "2026-03-02") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((desk.runs / "nights" / night / "summary.json").read_text())
    return found


def states(desk: Worked, night: str = "2026-03-02") -> dict[str, str]:
    return {entry["name"]: entry["state"] for entry in summary(desk, night)["sweeps"]}


def fine(asked: Space, machine: Machine, paths: Paths, file: Space) -> Space:
    return asked


@pytest.fixture(autouse=True)
def _monday(clock: Callable[[int], None]) -> None:
    clock(0)


class TestExitCodes:
    @pytest.mark.parametrize(
        ("error", "code", "state"),
        [
            (UserError("the rule"), 2, "failed"),
            (OutOfTime("no new answer"), 0, "no time"),
            (ZeroDivisionError("by zero"), 1, "broken"),
            (OSError(28, "No space left on device"), 2, "failed"),
        ],
    )
    def test_what_one_comes_to_does_not_stop_the_other(
        self, desk: Worked, answers: Any, error: Exception, code: int, state: str
    ) -> None:
        def answer(asked: Space, machine: Machine, paths: Paths, file: Space) -> Space:
            if asked.name == "a":
                raise error
            return asked

        answers(answer)
        assert desk.give("sweep", "a", "b")[0] == code
        assert states(desk) == {"a": state, "b": "nothing to do"}
        assert summary(desk)["state"] == ("failed" if code else "done")
        (why, _) = (entry["why"] for entry in summary(desk)["sweeps"])
        assert str(error).removeprefix("[Errno 28] ").split(" left")[0].lower() in why.lower()
        trace = desk.runs / "nights" / "2026-03-02" / "a.traceback.txt"
        assert trace.exists() == (code == 1)

    @pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGHUP])
    def test_a_signal_ends_all_and_is_said(
        self, kind: signal.Signals, desk: Worked, answers: Any
    ) -> None:
        def answer(asked: Space, machine: Machine, paths: Paths, file: Space) -> Space:
            signal.raise_signal(kind)
            raise AssertionError("the signal comes first")

        answers(answer)
        code, _, err = desk.give("sweep", "a", "b")
        assert (code, err.count("\n")) == (130, 1)
        assert states(desk) == {"a": "interrupted", "b": "waits"}
        assert summary(desk)["state"] == "interrupted"

    def test_sweeps_that_do_not_differ_are_refused(self, desk: Worked) -> None:
        assert (
            desk.refused("sweep", "a", "b", "a") == "sweep: the sweeps must differ, but got a b a"
        )


class TestTheTime:
    def test_each_has_its_share_of_what_is_left(self, desk: Worked, answers: Any) -> None:
        shares = []

        def answer(asked: Space, machine: Machine, paths: Paths, file: Space) -> Space:
            assert machine.until is not None
            shares.append((machine.until - deadline.now()).total_seconds())
            return asked

        answers(answer)
        assert desk.give("sweep", "a", "b", "--for", "1h")[0] == 0
        assert [round(share, -2) for share in shares] == [1800, 3600]

    def test_what_is_asked_for(self, desk: Worked, answers: Any) -> None:
        asked_for = []

        def answer(asked: Space, machine: Machine, paths: Paths, file: Space) -> Space:
            asked_for.append((asked.search.trials, file.search.trials))
            return asked

        answers(answer)
        desk.give("sweep", "a")
        desk.give("sweep", "a", "--add", "7")
        assert asked_for == [(3, 3), (7, 3)]


class TestTheCommandAtTheEnd:
    def test_it_finds_the_summary(self, desk: Worked, answers: Any) -> None:
        answers(fine)
        then = f'cp "$PIPELINE_SUMMARY" {desk.root}/got; echo $PIPELINE_NIGHT > {desk.root}/night'
        assert desk.give("sweep", "a", "--then", then)[0] == 0
        assert "# Night 2026-03-02: done" in (desk.root / "got").read_text()
        assert (desk.root / "night").read_text() == "2026-03-02\n"
        assert summary(desk)["then"] == {"command": then, "outcome": "done"}

    @pytest.mark.parametrize(
        ("then", "outcome"),
        [("exit 3", "failed with exit code 3"), ("sleep 60", "stopped after 0 s")],
    )
    def test_its_failure_is_one(
        self, desk: Worked, answers: Any, monkeypatch: pytest.MonkeyPatch, then: str, outcome: str
    ) -> None:
        answers(fine)
        monkeypatch.setattr(sweeping, "THEN_SECONDS", 60.0 if "exit" in then else 0.2)
        assert desk.give("sweep", "a", "--then", then)[0] == 2
        assert summary(desk)["then"]["outcome"] == outcome


class TestPastNights:
    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"state": "at work", "sweeps": [1]}'])
    def test_a_damaged_one_keeps_nobody_from_tonights(
        self, desk: Worked, answers: Any, content: str
    ) -> None:
        answers(fine)
        assert desk.give("sweep", "a")[0] == 0
        (desk.runs / "nights" / "2026-03-02" / "summary.json").write_text(content)
        code, _, err = desk.give("sweep", "a")
        assert (code, "Traceback" in err) == (0, False)
        assert states(desk, "2026-03-02-2") == {"a": "nothing to do"}
        _, shown, _ = desk.give("nights")
        assert "its summary.json is damaged: remove it" in shown

    def test_they_are_in_the_order_of_the_worlds_clock(self, desk: Worked) -> None:
        """The hour in which summer time ends is there twice."""
        for name, started in (
            ("b", "2026-10-25T02:10:00+01:00"),
            ("a", "2026-10-25T02:20:00+02:00"),
        ):
            night = {"state": "done", "started": started, "until": None, "seconds": 1.0,
                     "owner": "x", "sweeps": []}  # fmt: skip
            write_json(desk.runs / "nights" / name / "summary.json", night)
        assert [night["night"] for night in read_nights(desk.root)] == ["a", "b"]


class TestTurns:
    @pytest.fixture
    def ledger(self, storage: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
        monkeypatch.setattr(turn, "FORGIVING_SECONDS", 0.0)  # PostgreSQL has just been started
        ledger = Ledger(storage)
        yield ledger
        ledger.close()

    def test_one_has_it_until_it_leaves(self, ledger: Ledger) -> None:
        alive = lambda _: False  # noqa: E731
        assert take_turn(ledger, "sweep a", "me", alive) == "me"
        assert take_turn(ledger, "sweep a", "me", alive) == "me"
        assert take_turn(ledger, "sweep a", "you", alive) == "me"
        assert take_turn(ledger, "sweep b", "you", alive) == "you"
        leave_turn(ledger, "sweep a", "you")
        assert take_turn(ledger, "sweep a", "you", alive) == "me"
        leave_turn(ledger, "sweep a", "me")
        assert take_turn(ledger, "sweep a", "you", alive) == "you"

    def test_of_the_dead_it_is_free(self, ledger: Ledger) -> None:
        assert take_turn(ledger, "sweep a", "me", lambda _: False) == "me"
        assert take_turn(ledger, "sweep a", "you", lambda owner: owner == "me") == "you"

    def test_it_runs_out_unless_it_is_renewed(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        alive, lost = (lambda _: False), []
        monkeypatch.setattr("pipeline.study.storage.turn.TURN_SECONDS", 0.3)
        take_turn(ledger, "sweep a", "me", alive)
        with renewed(ledger, "sweep a", "me", lambda: lost.append(True)):
            rows = lambda: ledger.write(lambda db: db.execute(TURNS.select()).all())  # noqa: E731
            first = rows()[0].expires
            eventually(lambda: rows()[0].expires > first, "it is renewed")
            other = {"owner": "you", "expires": ledger.now() + 90}
            ledger.write(lambda db: db.execute(TURNS.update().values(other)))
            eventually(lambda: lost, "it is noticed")
        there = ledger.now()
        for expires, holder in ((there + 90, "you"), (0.0, "me"), (there + 9000, "me")):
            row = {"owner": "you", "expires": expires}
            ledger.write(lambda db, row=row: db.execute(TURNS.update().values(row)))
            assert take_turn(ledger, "sweep a", "me", alive) == holder  # the last: set back since

    @pytest.mark.slow
    def test_what_ran_out_while_the_server_was_away_is_kept_for_a_while(
        self, own_postgres: Postgres, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Who has it finds the server again at its own time."""
        ledger, alive = Ledger(own_postgres.url), lambda _: False
        monkeypatch.setattr(turn, "TURN_SECONDS", 0.1)
        assert take_turn(ledger, "sweep a", "me", alive) == "me"
        own_postgres.stop()
        own_postgres.start()
        monkeypatch.setattr(turn, "TURN_SECONDS", 60.0)
        assert take_turn(ledger, "sweep a", "you", alive) == "me"
        assert take_turn(ledger, "sweep a", "you", lambda owner: owner == "me") == "you"
        assert take_turn(ledger, "sweep b", "you", alive) == "you"
        monkeypatch.setattr(turn, "FORGIVING_SECONDS", 0.0)
        ledger.write(lambda db: db.execute(TURNS.update().values(owner="me", expires=0.0)))
        assert take_turn(ledger, "sweep a", "you", alive) == "you"
        ledger.close()


class TestGains:
    def winner(self, offset: float, spread: float, **other: Any) -> Winner:
        draw = np.random.default_rng(0)
        seeds = np.array([[-spread], [0.0], [spread]])
        measured = 100 + offset + seeds + draw.normal(size=(3, 50)) * 0.1
        return Winner(**{"study": "s", "number": 1, "parameters": {"lr": offset},
                         "measured": measured, "test_nelbo_nats": None, **other})  # fmt: skip

    def test_beyond_the_noise_of_seeds(self) -> None:
        gain = gained(self.winner(1.0, 0.05), self.winner(0.0, 0.05))
        assert gain["is_better"]
        assert gain["low"] < gain["nats"] < gain["high"]
        assert gain["evidence"].startswith("+1.0")
        assert gain["evidence"].endswith("3 and 3 seeds, 50 validation images")

    def test_within_it(self) -> None:
        gain = gained(self.winner(0.1, 0.5), self.winner(0.0, 0.5))
        assert not gain["is_better"]
        assert gain["evidence"].startswith("cannot be told apart from the one before: +0.1")

    @pytest.mark.parametrize(("before", "after"), [(3, 1), (1, 3)])
    def test_a_single_seed_on_either_side_is_no_gain(self, before: int, after: int) -> None:
        one, other = self.winner(1.0, 0.05), self.winner(0.0, 0.05)
        gain = gained(
            replace(one, measured=one.measured[:before]),
            replace(other, measured=other.measured[:after]),
        )
        assert not gain["is_better"]
        assert gain["evidence"].endswith(
            f" nats, no interval: single seeds, {after} and {before} seeds, 50 validation images"
        )

    def test_what_cannot_be_compared(self) -> None:
        winner = self.winner(1.0, 0.1)
        assert gained(None, winner)["is_better"]
        assert gained(winner, None) == {"is_better": False, "evidence": "there is no winner"}
        other = gained(winner, self.winner(0.0, 0.1, study="t"))
        assert not other["is_better"]
        assert "another study" in other["evidence"]
        assert "same setting" in gained(winner, self.winner(1.0, 0.2))["evidence"]


def killed_night(tiny: Worked, day: int) -> None:
    """A night in a process of its own, killed in the middle of a trial."""
    program = (
        "from datetime import datetime, timedelta\n"
        "from pipeline.settings import deadline\n"
        f"ahead = datetime.fromisoformat('{(MONDAY + timedelta(days=day)).isoformat()}')"
        " - deadline.now(); now = deadline.now\n"
        "deadline.now = lambda: now() + ahead\n"
        "from pipeline.__main__ import main; main()\n"
    )
    known = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", **ARITHMETIC}
    argv = [sys.executable, "-c", program, "sweep", "tiny", "--add", "1", "--for", "2h"]
    process = subprocess.Popen(argv, cwd=tiny.root, env=known, text=True, stderr=subprocess.DEVNULL)
    ledger = Ledger(f"sqlite:///{Paths(tiny.root, 'tiny').ledger}")
    with no_one_left(process):
        eventually(ledger.owners, "a worker is at work")
        process.kill()
    ledger.close()


@pytest.mark.slow
def test_a_week_of_nights(
    worked: Worked,
    tmp_path: Path,
    clock: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiny = worked.copy(tmp_path / "clone")
    monkeypatch.setattr(sweeping, "WAIT_SECONDS", 0.0)

    def night(day: int, *command: str) -> tuple[int, str, dict[str, Any]]:
        clock(day)
        code, _, err = tiny.give("sweep", *command)
        return code, err, summary(tiny, f"2026-03-0{day + 2}")

    code, _, monday = night(0, "tiny", "--add", "1", "--for", "2h")
    assert code == 0
    (entry,) = monday["sweeps"]
    assert entry["state"] in ("improved", "not better")
    assert entry["trials"] == {"before": 3, "after": 4, "asked": 4}
    assert (entry["tried"]["trials"], entry["failures"]) == (1, [])

    killed_night(tiny, 1)
    assert states(tiny, "2026-03-03") == {"tiny": "at work"}

    clock(2)
    ledger = Ledger(f"sqlite:///{Paths(tiny.root, 'tiny').ledger}")
    take_turn(ledger, "sweep tiny", owner_name(os.getppid()), lambda _: True)
    code, err, wednesday = night(2, "tiny", "--add", "1")
    assert (code, wednesday["state"]) == (75, "skipped")
    assert "sweep: skipped: after 0 s another `sweep` is still at work (process" in err
    leave_turn(ledger, "sweep tiny", owner_name(os.getppid()))
    ledger.close()
    assert summary(tiny, "2026-03-03")["state"] == "killed"
    assert "killed" in (tiny.runs / "nights" / "2026-03-03" / "summary.md").read_text()

    machine = tiny.root / "machine.yaml"
    alone = machine.read_text()
    machine.write_text(f"workers: 1\ntracking: http://127.0.0.1:{free_port()}\ndevice: cpu\n")
    code, _, thursday = night(3, "tiny", "--add", "1", "--for", "2h")
    machine.write_text(alone)
    (entry,) = thursday["sweeps"]
    assert (code, entry["trials"]) == (0, {"before": 4, "after": 5, "asked": 5})
    assert "MLflow lacks" in entry["tracking"]

    code, _, friday = night(4, "tiny", "--for", "2h")
    (entry,) = friday["sweeps"]
    assert (code, entry["state"]) == (0, "nothing to do")
    assert entry["tried"] == {"trials": 0, "parts": 0, "runs": 0, "epochs": 0}

    before = tiny.files()
    code, _, saturday = night(5, "tiny", "--add", "1", "--until", "21:59")
    (entry,) = saturday["sweeps"]
    assert (code, entry["state"]) == (0, "no time")
    assert "the winner and the report of before stand" in entry["why"]
    assert entry["trials"]["after"] == 5
    kept = {name: it for name, it in tiny.files().items() if name.startswith("runs/tiny/")}
    assert kept == {name: it for name, it in before.items() if name.startswith("runs/tiny/")}

    (tiny.root / "search_spaces" / "broken.yaml").write_text("serach: {}\n")
    code, _, sunday = night(6, "broken", "tiny")
    assert (code, states(tiny, "2026-03-08")) == (2, {"broken": "failed", "tiny": "nothing to do"})
    assert "unknown key `serach`" in sunday["sweeps"][0]["why"]

    tiny.done("verify", "tiny")
    _, table, _ = tiny.give("nights")
    outcomes = [line.split()[:2] for line in table.splitlines()[1:-1]]
    assert outcomes == [
        *([f"2026-03-0{day}", "tiny"] for day in range(2, 8)),
        ["2026-03-08", "broken"],
        ["2026-03-08", "tiny"],
    ]
    assert (tiny.runs / "nights" / "nights.png").read_bytes().startswith(b"\x89PNG")
