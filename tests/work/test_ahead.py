"""One worker plans for all that wait: the parts are those that each would have begun itself."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from crews import Killed, Sweep, make_sweep, sweep

from pipeline.settings.space import parse_space
from pipeline.study.search.propose import Proposer
from pipeline.study.storage import ahead, ledger
from pipeline.study.storage.ledger import Ledger
from pipeline.study.storage.schema import TRIALS
from pipeline.study.storage.workers import Presence, arrive
from pipeline.study.watch import Stage, Watch
from pipeline.work import claims as claims_module
from pipeline.work import worker as worker_module
from pipeline.work.owners import owner_name
from pipeline.work.worker import Worker

WIDE = sweep(search={"parallelism": 4, "trials": 10})  # four of them can begin at once


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """The search by one worker to whom nothing happens, and who plans for nobody."""
    made = make_sweep(tmp_path_factory.mktemp("alone") / "clone", WIDE)
    assert made.worker().work() == 0
    return made


@pytest.fixture
def wide(storage: str, tmp_path: Path) -> Sweep:
    made = make_sweep(tmp_path / "clone", WIDE)
    made.storage = storage
    return made


@pytest.fixture
def hire(wide: Sweep) -> Iterator[Callable[[], Worker]]:
    """Makes a worker that is there, as one on a host of its own."""
    opened: list[Ledger] = []

    def make() -> Worker:
        opened.append(wide.ledger)
        presence = Presence(f"host{len(opened)}/{len(opened)}/1")
        arrive(opened[-1], presence, "tiny", None)
        return wide.worker(opened[-1], presence=presence)

    yield make
    for each in opened:
        each.close()


def holders(worker: Worker) -> dict[int, str | None]:
    return {p.number: p.owner for p in worker._ledger.parts(worker._job.studies[0].id)}


def test_who_plans_begins_a_part_for_each_that_waits(
    hire: Callable[[], Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = hire(), hire(), hire()
    claimed = first.claims.next()
    assert claimed
    assert claimed[1].number == 0
    held = holders(first)
    assert held.pop(0) == first.who.owner
    assert sorted(held) == [1, 2]
    monkeypatch.setattr(Proposer, "propose", None)  # nobody else needs it
    for each in (second, third):
        claimed = each.claims.next()
        assert claimed
        assert held[claimed[1].number] == each.who.owner


def test_a_part_that_is_not_fetched_in_time_is_anyones(
    hire: Callable[[], Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "GIVEN_SECONDS", -1.0)
    monkeypatch.setattr(ledger, "FORGIVING_SECONDS", 0.0)  # PostgreSQL has just been started
    first, second = hire(), hire()
    assert first.claims.next()
    assert holders(first)[1] == second.who.owner
    claims = [hire().claims.next(), second.claims.next()]
    assert [claim[1].number for claim in claims if claim] == [1, 2]


def test_who_waits_reads_no_part_until_there_is_something_for_it(
    hire: Callable[[], Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "TURN_SECONDS", 60.0)  # however slow this machine is
    crew = [hire() for _ in range(6)]
    first = crew[0].claims.next()
    assert first
    claims = [each.claims.next() for each in crew[1:]]
    assert sorted(claim[1].number for claim in claims if claim) == [1, 2, 3]
    idle = [each for each, claim in zip(crew[1:], claims, strict=True) if not claim]
    assert [each.claims.watches.held for each in idle] == [True, False]
    monkeypatch.setattr(Stage, "refresh", None)
    assert idle[1].claims.next() is None


def test_who_works_on_another_study_is_given_nothing(
    wide: Sweep, hire: Callable[[], Worker]
) -> None:
    first = hire()
    other = sweep(search={"parallelism": 4, "trials": 10, "seed": 10})  # it was edited
    edited = replace(wide, space=parse_space("tiny", other, "tiny.yaml"))
    opened = edited.ledger
    arrive(opened, Presence("host9/9/1"), "tiny", None)
    assert edited.worker(opened, presence=Presence("host9/9/1")).claims.next()
    assert first.claims.next()
    assert len(holders(first)) == 1
    opened.close()


def test_a_turn_is_anothers_however_long_a_plan_takes(
    hire: Callable[[], Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims_module, "TURN_PER_PLAN", 1e9)
    first, second = hire(), hire()
    first.claims.stage.refresh()
    assert first.claims.plan(first.claims.stage.watches[0])
    assert first.claims._plans.keep() == 0
    assert second.claims._plans.keep() is None


def test_who_stood_still_compares_a_part_with_what_that_has_seen(
    wide: Sweep, hire: Callable[[], Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker stands still after it has looked, and is given a part that began long after."""
    pruned = sweep(search={"parallelism": 2, "trials": 9, "pruner": "median", "rungs": None})
    wide.space = parse_space("tiny", pruned, "tiny.yaml")
    monkeypatch.setattr(ledger, "FORGIVING_SECONDS", 0.0)
    first, second = hire(), hire()
    assert first.claims.next()
    assert holders(first)[1] == second.who.owner
    fetch = second._ledger.fetch
    first._ledger.release(first.who.owner, blameless=True)

    def late(*arguments: Any, **options: Any) -> Any:
        with monkeypatch.context() as still:
            still.setattr(ledger, "GIVEN_SECONDS", -1.0)
            first._ledger.write(lambda db: db.execute(sa.update(TRIALS).values(expires=1.0)))
            while len(holders(first)) < 7:
                if claimed := first.claims.next():
                    first.run(*claimed)
        while second.who.owner not in holders(first).values():
            if claimed := first.claims.next():
                first.run(*claimed)
        return fetch(*arguments, **options)

    monkeypatch.setattr(second._ledger, "fetch", late)
    claimed = second.claims.next()
    assert claimed
    watch, lease = claimed
    assert lease.number > 4
    seen: list[Any] = []
    monkeypatch.setattr(worker_module, "should_prune", lambda *given: bool(seen.append(given[2])))
    second.run(watch, lease)
    anew = Watch(second._ledger, wide.study, wide.space)
    anew.refresh()
    assert seen[0] == anew.planner.curves(lease.number)
    assert len(seen[0]) > 2


def test_a_death_is_no_fault_of_a_part_that_was_not_begun(hire: Callable[[], Worker]) -> None:
    first, second = hire(), hire()
    assert first.claims.next()
    assert holders(first)[1] == second.who.owner
    for fetched in (False, True):
        if fetched:
            assert second.claims.next()
        assert first._ledger.release(second.who.owner, blameless=False) is fetched
        part = first._ledger.parts(first._job.studies[0].id)[1]
        assert (part.owner, part.strikes) == (None, int(fetched))


def test_who_is_dead_is_given_nothing(wide: Sweep, hire: Callable[[], Worker]) -> None:
    """It was killed with its crew, so that nobody has noted its end."""
    first = hire()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        arrive(first._ledger, Presence(owner_name(process.pid)), "tiny", None)
        process.kill()
    assert first.claims.next()
    assert len(holders(first)) == 1


def test_the_same_bytes_whoever_plans_and_dies_at_it(
    wide: Sweep, hire: Callable[[], Worker], alone: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers take turns at random; at random steps of planning one dies and is replaced."""
    draw, left, deaths, given = random.Random(3), [4], set[str](), list[int]()

    def deadly(owner: Any, name: str) -> None:
        function = getattr(owner, name)

        @wraps(function)
        def step(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                deaths.add(f"before {name}")
                raise Killed
            result = function(*arguments, **options)
            if name == "give":
                given.append(arguments[2].number)
            left[0] -= 1
            if left[0] == 0:
                deaths.add(f"after {name}")
                raise Killed
            return result

        monkeypatch.setattr(owner, name, step)

    for owner, name in (
        (Ledger, "begin"), (Ledger, "give"), (Ledger, "fetch"), (Proposer, "propose"),
        (ahead.Turn, "keep"), (ahead.Turn, "leave"),
    ):  # fmt: skip
        deadly(owner, name)
    crew, running = [hire() for _ in range(4)], dict[str, Any]()
    while crew:
        each = draw.choice(crew)
        try:
            if each.who.owner in running and draw.random() < 0.4:
                each.run(*running.pop(each.who.owner))
            elif each.who.owner not in running and (claimed := each.claims.next()):
                running[each.who.owner] = claimed
            elif each.who.owner not in running and each.claims.stage.is_over:
                each.claims.watches.leave()
                crew.remove(each)
        except Killed:
            left[0] = draw.randint(3, 25)
            each._ledger.release(each.who.owner, blameless=True)  # and its turn runs out
            each._ledger.write(lambda db: db.execute(sa.update(ahead.TURNS).values(expires=0.0)))
            running.pop(each.who.owner, None)
            crew[crew.index(each)] = hire()
    assert wide.tables() == alone.tables()
    assert len(given) > 3
    assert len(deaths) > 4
