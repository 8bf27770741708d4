"""A storage that stays away or says nothing, as the person meets it who gave the command."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa
from crews import Sweep, altered, eventually, in_midst_of_a_trial, no_one_left, pid_of
from desk import STUDY, Desk
from postgres import Postgres

from pipeline.study.storage import engine, postgres
from pipeline.study.storage import ledger as ledger_module
from pipeline.study.storage.claim import Claimant
from pipeline.study.storage.engine import transaction
from pipeline.study.storage.ledger import Ledger
from pipeline.study.storage.outages import StorageAway
from pipeline.study.storage.schema import TRIALS

HEARS = ("env", "--default-signal=INT")  # also where this test was started in the background
MINUTE = 60.0
PATIENCE, ENDLESS = 6.0, 1e9  # seconds; to commands to whom the minute is another time


@contextmanager
def silent(server: Postgres) -> Iterator[None]:
    """All processes of the server stand still; their connections stay open."""
    first = psutil.Process(server.pid)
    processes = [first, *first.children(recursive=True)]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


def since(sweep: Sweep, before: str) -> list[str]:
    """What commands have said since."""
    return sweep.errors.removeprefix(before).splitlines()


@pytest.fixture
def away(
    tiny: Sweep, own_postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Sweep, Postgres]]:
    """A sweep on a server of its own."""
    ledger = Ledger(own_postgres.url)
    monkeypatch.setattr(Sweep, "ledger", ledger)
    tiny.storage = own_postgres.url
    yield tiny, own_postgres
    ledger.close()


@pytest.fixture
def calm(undisturbed: Sweep) -> bytes:
    return undisturbed.tables()


def patient(folder: Path, seconds: float) -> dict[str, str]:
    """The environment of commands that wait so long for a storage."""
    return altered(folder, study__storage__outages__PATIENCE_SECONDS=seconds)


@pytest.mark.slow
def test_what_stays_away_ends_commands_in_one_line_and_they_go_on_when_it_is_back(
    calm: bytes, away: tuple[Sweep, Postgres], tmp_path: Path
) -> None:
    tiny, server = away
    hasty, endless = patient(tmp_path / "6s", PATIENCE), patient(tmp_path / "endless", ENDLESS)
    command = tiny.start("search", 2, **hasty)
    with no_one_left(command):
        eventually(lambda: any(trial.curve for trial in tiny.held()), "a trial is at work")
        server.stop()
        before = tiny.errors
        assert command.wait(5 * MINUTE) == 2
    assert "Traceback" not in tiny.errors
    (said,) = [line for line in since(tiny, before) if line.startswith("error: ")]
    waited = re.search(r" is away for (\d+) s: .*; then the same command goes on$", said)
    assert waited
    assert int(waited[1]) >= PATIENCE
    before = tiny.errors
    assert tiny.start("status", 2, **endless).wait(5 * MINUTE) == 2  # who looks does not wait
    assert [line[:15] for line in since(tiny, before)] == ["error: storage "]
    before = tiny.errors
    assert tiny.start("search", 2, **hasty).wait(5 * MINUTE) == 2
    waiting, end = since(tiny, before)
    assert waiting.startswith("waiting for storage ")
    assert end.startswith("error: storage ")
    server.start()
    assert tiny.start("search", 2).wait(5 * MINUTE) == 0, tiny.errors
    assert tiny.tables() == calm
    assert [trial.strikes for trial in tiny.trials()] == [0] * len(tiny.trials())


@pytest.mark.slow
def test_ctrl_c_ends_a_wait_however_long_it_is(
    away: tuple[Sweep, Postgres], tmp_path: Path
) -> None:
    tiny, server = away
    endless = patient(tmp_path / "endless", ENDLESS)
    command = tiny.start("search", 2, *HEARS, **endless)
    with no_one_left(command):
        eventually(lambda: any(trial.curve for trial in tiny.held()), "a trial is at work")
        server.stop()
        logs = tiny.paths.study(tiny.study.id) / "logs"

        def waits() -> bool:
            return all("waiting for" in log.read_text() for log in logs.glob("worker-*.log"))

        eventually(waits, "the workers wait for the storage")
        assert_leaves(tiny, command)
    again = tiny.start("search", 2, *HEARS, **endless)
    with no_one_left(again):
        eventually(lambda: tiny.errors.count("waiting for storage"), "the command waits for it")
        assert_leaves(tiny, again)
    assert "Traceback" not in tiny.errors


def assert_leaves(tiny: Sweep, command: subprocess.Popen[str]) -> None:
    command.send_signal(signal.SIGINT)
    assert command.wait(5 * MINUTE) == 130, tiny.errors
    assert "the same command " in tiny.errors.splitlines()[-1]


@pytest.mark.slow
def test_a_silent_server_is_not_waited_for_without_end(
    own_postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "SILENCE_SECONDS", 1.0)
    monkeypatch.setitem(engine.CONNECTION, "connect_timeout", 2)
    desk = Desk(own_postgres.url)
    desk.must_claim("a")
    with silent(own_postgres), pytest.raises(StorageAway, match="connection timeout expired"):
        desk.ledger.impatient().claim(STUDY, Claimant("b"), budget=9)
    assert desk.must_claim("c").number == 1  # what was asked for meanwhile came to nothing
    with desk.ledger._engine.connect() as db:  # in the midst of a transaction
        assert db.execute(sa.select(1)).scalar_one() == 1
        with silent(own_postgres), pytest.raises(sa.exc.OperationalError, match="said nothing for"):
            db.execute(sa.select(1))
    assert desk.must_claim("d").number == 2
    desk.ledger.close()


@pytest.mark.slow
def test_what_takes_long_but_is_answered_is_no_silence(
    own_postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(own_postgres.url)
    rows = "SELECT repeat('x', 1000), pg_sleep(0.001) FROM generate_series(1, 3000)"
    monkeypatch.setattr(postgres, "SILENCE_SECONDS", 2.0)
    assert len(desk.ledger.read(lambda db: db.exec_driver_sql(rows).all())) == 3000
    desk.ledger.close()


@pytest.mark.slow
def test_a_worker_that_stands_still_does_not_keep_its_crew_from_ending(
    tiny: Sweep, undisturbed: Sweep, tmp_path: Path
) -> None:
    command = tiny.start("search", 2, **altered(tmp_path / "soon", work__crew__LEAVE_SECONDS=1.0))
    with no_one_left(command):
        victim = eventually(lambda: in_midst_of_a_trial(tiny), "a trial is at work")
        with transaction(tiny.ledger._engine) as db:  # a minute later
            row = TRIALS.c
            db.execute(sa.update(TRIALS).where(row.number == victim.number).values(expires=0))
        assert command.wait(5 * MINUTE) == 0, tiny.errors
        with pytest.raises(ProcessLookupError):
            os.kill(pid_of(victim), 0)
    assert tiny.tables() == undisturbed.tables()


def test_a_clock_that_is_set_back_keeps_no_trial_from_being_taken_over(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.must_claim("a")
    clock = ledger_module.clock
    monkeypatch.setattr(ledger_module, "clock", lambda db: clock(db) - 86400)
    assert desk.must_claim("b").token == 2
    assert desk.must_claim("c").number == 1  # that of b lasts
