"""Who works for a sweep, and what is wished of them, in either storage."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from crews import eventually
from desk import STUDY, Desk, curve

from pipeline.study.storage import ledger as ledger_module
from pipeline.study.storage import workers as workers_module
from pipeline.study.storage.database import Database
from pipeline.study.storage.engine import open_storage
from pipeline.study.storage.schema import JOBS
from pipeline.study.storage.workers import (
    CANCEL,
    PAUSE,
    Presence,
    arrive,
    depart,
    find_job,
    keep_job,
    look,
    send_away,
    wish,
    wished,
    workers,
)


def test_a_worker_is_seen_and_told_with_each_renewal(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1e9]
    for module in (ledger_module, workers_module):
        monkeypatch.setattr(module, "clock", lambda _: now[0])
    presence = Presence("a")
    arrive(desk.ledger, presence, "tiny", "17_0")
    lease, ledger = desk.must_claim("a"), desk.ledger.seeing(presence.note)
    now[0] += 20
    ledger.renew(lease)
    (row,) = workers(ledger, "tiny")
    assert (row.owner, row.slurm, row.seen, row.code) == ("a", "17_0", 1e9 + 20, None)
    assert presence.wish is None
    for what in (PAUSE, None, CANCEL):
        wish(ledger, "tiny", what)
        assert wished(ledger, "tiny") == what
        ledger.report(lease, curve(1))
        assert presence.wish == what
    depart(ledger, "a", 2, "no such device")
    depart(ledger, "a", 0)
    (row,) = workers(ledger, "tiny")
    assert (row.code, row.said) == (2, "no such device")


def test_who_was_cancelled_stays_so_when_others_go_on(desk: Desk) -> None:
    zombie, next_one = Presence("zombie"), Presence("next")
    arrive(desk.ledger, zombie, "tiny", None)
    wish(desk.ledger, "tiny", CANCEL)
    wish(desk.ledger, "tiny", None)
    arrive(desk.ledger, next_one, "tiny", None)
    for each in (zombie, next_one):
        look(desk.ledger, each)
    assert (zombie.wish, next_one.wish) == (CANCEL, None)
    send_away(desk.ledger, "next")
    look(desk.ledger, next_one)
    assert next_one.wish == CANCEL


def test_a_sweep_knows_nothing_of_the_wishes_for_another(desk: Desk) -> None:
    desk.ledger.open_study("other-1", "other", "search", {})
    presence = Presence("a")
    arrive(desk.ledger, presence, "other", None)
    wish(desk.ledger, "tiny", CANCEL)
    look(desk.ledger, presence)
    assert presence.wish is None
    assert workers(desk.ledger, "tiny") == []


def test_a_job_is_found_by_its_id_and_the_latest_by_its_sweep(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter((1.0, 2.0, 3.0))
    monkeypatch.setattr(workers_module, "clock", lambda _: next(times))
    for id_, content in (("one", "1"), ("two", "2"), ("one", "3")):
        keep_job(desk.ledger, id_, "tiny", content)
    assert [find_job(desk.ledger, name) for name in ("one", "two", "tiny", "x")] == [
        "3",
        "2",
        "3",
        None,
    ]


def test_hosts_that_keep_one_job_at_once_do_not_collide(postgres_storage: str) -> None:
    """Two that begin the same search: the second waits for the first, and writes the same."""
    ledger, engine = Database(postgres_storage), open_storage(postgres_storage)
    waiting = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    with ThreadPoolExecutor(1) as pool, engine.connect() as first:
        first.execute(sa.insert(JOBS).values(id="j", sweep="tiny", kept_ms=1, content="of a"))
        second = pool.submit(keep_job, ledger, "j", "tiny", "of b")
        eventually(lambda: ledger.read(lambda db: db.execute(waiting).scalar()) == 1, "a lock")
        first.commit()
        second.result()
    assert find_job(ledger, "j") == "of b"
    ledger.close()
    engine.dispose()


def test_who_renews_without_a_row_is_told_nothing(desk: Desk) -> None:
    wish(desk.ledger, "tiny", CANCEL)
    presence = Presence("unknown")
    desk.ledger.seeing(presence.note).renew(desk.must_claim("unknown"))
    assert presence.wish is None
    assert STUDY in desk.ledger.studies("tiny", "search")
