"""A database that is restarted, frozen or away, and what becomes of those who work on it."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from crews import Sweep, at_epoch, eventually, in_midst_of_a_trial, no_one_left, pid_of
from desk import PARAMETERS, STUDY, Desk, curve
from frozen import DEADLINE, frozen
from postgres import Postgres
from studies import begin

from pipeline.study.storage import database, engine, outages
from pipeline.study.storage import heartbeat as renewal_module
from pipeline.study.storage import ledger as ledger_module
from pipeline.study.storage.claim import Claimant
from pipeline.study.storage.engine import transaction
from pipeline.study.storage.ledger import LeaseLost, Ledger
from pipeline.study.storage.outages import StorageAway, StorageError, is_passing, keep_trying
from pipeline.vae.training import Leaves, Training


class Refusal(Exception):
    """What a driver raises."""

    def __init__(self, text: str = "", sqlstate: str | None = None, code: int | None = None):
        super().__init__(text)
        self.sqlstate = sqlstate
        if code is not None:
            self.sqlite_errorcode = code


def lost(text: str = "server closed the connection unexpectedly") -> sa.exc.OperationalError:
    return sa.exc.OperationalError("UPDATE trials", {}, Refusal(text))


PASS = [Refusal(sqlstate=state) for state in outages.SQLSTATES]
PASS += [
    Refusal(sqlstate="08006"),
    Refusal("connection refused"),
    Refusal("the connection is lost"),
]
PASS += [Refusal(f"FATAL:  the database system is {what}")
         for what in ("starting up", "shutting down", "in recovery mode")]  # fmt: skip
PASS += [Refusal("FATAL:  sorry, too many clients already")]
PASS += [Refusal(code=sqlite3.SQLITE_BUSY), Refusal(code=sqlite3.SQLITE_BUSY_SNAPSHOT)]
STAY = [Refusal('FATAL:  password authentication failed for user "me"'),
        Refusal('FATAL:  database "d" does not exist'), Refusal(sqlstate="42P01"),
        Refusal(code=sqlite3.SQLITE_READONLY), Refusal(code=sqlite3.SQLITE_ERROR)]  # fmt: skip


@pytest.mark.parametrize(("refusals", "passes"), [(PASS, True), (STAY, False)])
def test_what_passes_by_itself(refusals: list[Refusal], passes: bool) -> None:
    for refusal in refusals:
        assert is_passing(sa.exc.OperationalError("x", {}, refusal)) is passes, refusal


def test_it_is_tried_again_with_growing_pauses_and_then_given_up_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now, pauses, saved = [0.0], [], []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    def away() -> None:
        raise lost()

    monkeypatch.setattr(outages.time, "sleep", sleep)
    monkeypatch.setattr(outages.time, "monotonic", lambda: now[0])
    with pytest.raises(StorageAway) as caught:
        keep_trying(away, "db", first=lambda: saved.append(now[0]))
    assert str(caught.value) == (
        "storage db is away for 60 s: server closed the connection unexpectedly: see to its server,"
        " or correct `storage` in machine.yaml; then the same command goes on"
    )
    assert saved == [0.0]  # once, before any pause
    assert sum(pauses) == pytest.approx(60)
    assert pauses[0] <= 0.1
    assert max(pauses) <= 4.0
    assert len(pauses) < 40
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("waiting for storage db, 5")


def test_what_does_not_pass_is_one_line_at_once() -> None:
    def refused() -> None:
        raise sa.exc.OperationalError("x", {}, STAY[0])

    with pytest.raises(StorageError, match="cannot be used: FATAL:  password") as caught:
        keep_trying(refused, "db")
    assert not isinstance(caught.value, StorageAway)


class TestALostAnswer:
    """The connection breaks after a commit: what was written is written once."""

    @pytest.fixture
    def lose(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
        """Has the next transaction's answer lost."""
        pending: list[bool] = []

        @contextmanager
        def unlucky(engine: sa.Engine) -> Iterator[sa.Connection]:
            with transaction(engine) as db:
                yield db
            if pending:
                pending.clear()
                raise lost()

        monkeypatch.setattr(database, "transaction", unlucky)
        return lambda: pending.append(True)

    def test_of_a_beginning(self, desk: Desk, lose: Callable[[], None]) -> None:
        lose()
        lease = begin(desk.ledger, STUDY, PARAMETERS, until=2)
        assert (lease.number, lease.token) == (0, 1)
        assert len(desk.ledger.trials(STUDY)) == 1  # none is held by one who does not know it
        desk.complete(lease)

    def test_of_a_takeover(self, desk: Desk, lose: Callable[[], None]) -> None:
        first = desk.must_claim("a")
        desk.ledger.report(first, curve(1))
        desk.ledger.release("a", blameless=False)
        lose()
        lease = desk.must_claim("b")
        assert (lease.number, lease.token, lease.curve) == (0, 3, curve(1))
        assert desk.row().strikes == 1
        assert len(desk.ledger.trials(STUDY)) == 1

    def test_of_an_end(self, desk: Desk, lose: Callable[[], None]) -> None:
        lease = desk.must_claim("a")
        lose()
        desk.ledger.finish(lease, "complete", curve(2), {"nelbo_nats": 1.0}, weights={"m": b"1"})
        assert desk.row().state == "complete"
        assert [content for content, _ in desk.ledger.weights(STUDY, 0).values()] == [b"1"]
        with pytest.raises(LeaseLost):  # another end is another end
            desk.ledger.finish(lease, "complete", curve(3), {"nelbo_nats": 1.0})

    def test_of_reports(self, desk: Desk, lose: Callable[[], None]) -> None:
        lease = desk.must_claim("a")
        lose()
        desk.ledger.report(lease, curve(2))
        lose()
        desk.ledger.renew(lease)
        assert (desk.row().curve, desk.row().strikes) == (curve(2), 0)

    def test_of_a_release(self, desk: Desk, lose: Callable[[], None]) -> None:
        desk.must_claim("a")
        lose()
        desk.ledger.release("a", blameless=False)
        assert (desk.row().owner, desk.row().strikes) == (None, 1)


def test_a_renewal_that_fails_for_a_while_ends_neither_the_renewals_nor_the_epoch(
    tiny: Sweep, undisturbed: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    renew, failures, renewed = Ledger.renew, [], []

    def unreachable(ledger: Ledger, lease: Any) -> None:
        if len(failures) < 2:
            failures.append(True)
            raise StorageAway("away")
        renew(ledger, lease)
        renewed.append(True)

    def wait(_: Training) -> None:
        while not renewed:
            time.sleep(0.001)

    monkeypatch.setattr(renewal_module, "LEASE_SECONDS", 0.01)
    monkeypatch.setattr(Ledger, "renew", unreachable)
    at_epoch(monkeypatch, 2, wait)
    assert tiny.worker().work() == 0
    assert len(failures) == 2
    assert tiny.tables() == undisturbed.tables()


def test_before_it_waits_in_vain_a_worker_saves_its_epochs(
    tiny: Sweep, undisturbed: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = Ledger.report

    def away(ledger: Ledger, *_: object) -> None:
        def fail(*_: object) -> None:
            raise lost()

        ledger.impatient().write(fail)

    def cut(_: Training) -> None:
        monkeypatch.setattr(Ledger, "report", away)

    # no other reason to save
    monkeypatch.setattr("pipeline.work.checkpoints.TRAINING_PER_SAVING", 1e9)
    at_epoch(monkeypatch, 2, cut)
    with pytest.raises(StorageAway):
        tiny.worker().work()
    assert len(tiny.trials()[0].curve) == 1
    monkeypatch.setattr(Ledger, "report", report)
    tiny.ledger.release(tiny.worker().who.owner, blameless=True)
    trained: list[int] = []
    run_epoch = Training.run_epoch

    def counted(training: Training, *leaves: Leaves) -> dict[str, Any] | None:
        trained.append(len(training.records))
        return run_epoch(training, *leaves)

    monkeypatch.setattr(Training, "run_epoch", counted)
    assert tiny.worker().work() == 0
    assert trained[0] == 2
    assert tiny.tables() == undisturbed.tables()


@pytest.mark.slow
def test_a_database_that_is_restarted_costs_a_crew_a_moment(
    tiny: Sweep, undisturbed: Sweep, own_postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm, ledger = undisturbed.tables(), Ledger(own_postgres.url)
    monkeypatch.setattr(Sweep, "ledger", ledger)
    tiny.storage = own_postgres.url
    command = tiny.start("search", workers=2)
    with no_one_left(command):
        for _ in range(3):
            eventually(lambda: tiny.held() or command.poll() is not None, "a trial is at work")
            own_postgres.stop()
            time.sleep(1.0)
            own_postgres.start()
        assert command.wait(DEADLINE) == 0, tiny.errors
    assert "Traceback" not in tiny.errors
    logs = "".join(path.read_text() for path in tiny.root.rglob("worker-*.log"))
    assert "Traceback" not in logs
    assert tiny.tables() == calm
    ledger.close()


@pytest.mark.slow
def test_a_host_that_freezes_within_a_transaction_loses_it(
    postgres_storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "clock", lambda _: 1e9)  # no lease ends meanwhile
    desk = Desk(postgres_storage)
    desk.must_claim("a")
    with frozen(f"{postgres_storage}?options=-c%20idle_in_transaction_session_timeout%3D1s"):
        lease = desk.must_claim("b")
        assert lease.number == 1
        desk.complete(lease)
    assert desk.row().reason is None
    desk.ledger.close()


@pytest.mark.slow
def test_who_cannot_wait_for_it_hears_who_it_is(
    postgres_storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(engine.SESSION, "lock_timeout", "100ms")
    desk = Desk(postgres_storage)
    lasting = f"{postgres_storage}?options=-c%20idle_in_transaction_session_timeout%3D0"
    with frozen(lasting) as process, pytest.raises(StorageAway) as caught:
        desk.ledger.impatient().claim(STUDY, Claimant("b"), budget=9)
    assert "canceling statement due to lock timeout" in str(caught.value)
    assert f"/{process.pid} at 127.0.0.1 is in a transaction for" in str(caught.value)
    desk.ledger.close()


def test_a_frozen_writer_of_sqlite_is_named_with_the_remedy(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BUSY_SECONDS", 0.1)
    url = f"sqlite:///{tmp_path}/ledger.db"
    desk = Desk(url)
    desk.must_claim("a")
    with frozen(url) as process:
        other = Ledger(url, patience=0.5)  # who only reads is not held up
        assert len(other.trials(STUDY)) == 1
        with pytest.raises(StorageAway) as caught:
            other.release("a", blameless=True)
        assert "\n" not in str(caught.value)
        assert f"process {process.pid} (" in str(caught.value)
        assert f"kill -CONT {process.pid}) or end it (kill -KILL {process.pid})" in str(
            caught.value
        )
    assert other.release("a", blameless=True)
    desk.ledger.close()
    other.close()


@pytest.mark.slow
def test_a_worker_that_freezes_holds_up_nobody_who_asks(tiny: Sweep) -> None:
    """`status` on SQLite, beside a crew whose worker is stopped at a random moment."""
    command = tiny.start("search", workers=2)
    with no_one_left(command):
        victim = eventually(lambda: in_midst_of_a_trial(tiny), "a trial is at work")
        assert tiny.start("status", workers=2).wait(DEADLINE) == 0
        os.kill(pid_of(victim), signal.SIGCONT)
        assert command.wait(DEADLINE) == 0
