"""Many processes on one ledger, and processes that die inside a transaction."""

from __future__ import annotations

import itertools
import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier, Event

import pytest
import sqlalchemy as sa
from desk import STUDY, Desk
from studies import next_lease

from pipeline.study.storage.engine import open_storage, transaction
from pipeline.study.storage.ledger import Ledger

DEADLINE = 60.0
# As fresh as spawned ones, but what takes long to import was imported before the first.
fresh = multiprocessing.get_context("forkserver")
fresh.set_forkserver_preload(["pytest", "pipeline.study.storage.ledger"])


def work(url: str, owner: str, budget: int, start: Barrier, results: Queue[list[int]]) -> None:
    """Opens the fresh database with all others at once and works until all trials are done."""
    start.wait(5 * DEADLINE)
    ledger = Ledger(url)
    ledger.open_study(STUDY, "tiny", "search", {})
    mine = []
    while sum(t.state != "running" for t in ledger.trials(STUDY)) < budget:
        lease = next_lease(ledger, STUDY, {"by": owner}, budget=budget, owner=owner)
        if lease is None:
            time.sleep(0.01)
            continue
        curve = [{"epoch": epoch, "owner": owner} for epoch in (1, 2)]
        ledger.report(lease, curve[:1])
        ledger.report(lease, curve)
        ledger.finish(lease, "complete", curve, {"owner": owner})
        mine.append(lease.number)
    ledger.close()
    results.put(mine)


def check_crew(url: str, processes: int, budget: int) -> None:
    """Lets so many processes do all trials: no number is given twice and none is lost."""
    start, results = fresh.Barrier(processes), fresh.Queue()
    crew = [
        fresh.Process(target=work, args=(url, f"w{i}", budget, start, results))
        for i in range(processes)
    ]
    for process in crew:
        process.start()
    shares = [results.get(timeout=5 * DEADLINE) for _ in crew]
    for process in crew:
        process.join(DEADLINE)
        assert process.exitcode == 0
    assert sorted(itertools.chain(*shares)) == list(range(budget))

    ledger = Ledger(url)
    trials = ledger.trials(STUDY)
    ledger.close()
    assert [trial.number for trial in trials] == list(range(budget))
    for trial in trials:  # every column was written by one and the same worker
        assert trial.result is not None
        owner = trial.result["owner"]
        assert trial.curve == [{"epoch": 1, "owner": owner}, {"epoch": 2, "owner": owner}]
        assert trial.parameters == {"by": owner}


def test_no_number_is_given_twice_and_none_is_lost(storage: str) -> None:
    check_crew(storage, processes=8, budget=48)


@pytest.mark.slow
def test_sixteen_workers_share_one_postgresql(postgres_storage: str) -> None:
    check_crew(postgres_storage, processes=16, budget=96)


@pytest.mark.slow
@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_the_isolation_level_is_not_the_servers_choice(postgres_storage: str, level: str) -> None:
    engine = open_storage(postgres_storage)
    name = sa.make_url(postgres_storage).database
    with transaction(engine) as db:
        db.exec_driver_sql(f"ALTER DATABASE {name} SET default_transaction_isolation TO '{level}'")
    engine.dispose()
    check_crew(postgres_storage, processes=6, budget=24)


def stop_inside(url: str, inside: Event) -> None:
    """Claims a trial, changes it in a transaction that it never ends."""
    engine = open_storage(url)
    with transaction(engine) as db:
        db.exec_driver_sql("UPDATE trials SET state = 'failed', reason = 'half'")
        inside.set()
        time.sleep(DEADLINE)


def test_a_process_killed_inside_a_transaction_leaves_nothing(storage: str) -> None:
    desk = Desk(storage)
    lease = desk.must_claim("a")
    inside = fresh.Event()
    process = fresh.Process(target=stop_inside, args=(storage, inside))
    process.start()
    assert inside.wait(DEADLINE)
    process.kill()
    process.join(DEADLINE)
    desk.ledger.report(lease, [])  # the lock is free, and the row as it was
    assert (desk.row().state, desk.row().reason) == ("running", None)
    desk.ledger.close()


def test_threads_share_a_ledger(storage: str) -> None:
    desk = Desk(storage)
    with ThreadPoolExecutor(8) as pool:
        leases = list(pool.map(lambda i: desk.claim(str(i)), range(40)))
    assert sorted(lease.number for lease in leases if lease) == list(range(40))
    desk.ledger.close()
