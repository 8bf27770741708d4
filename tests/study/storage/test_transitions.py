"""The ledger does what the table of transitions says, from every state, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy as sa
from desk import STUDY, Desk, curve

from pipeline.results.states import FINISHED, State
from pipeline.study.storage import transitions
from pipeline.study.storage.claim import MAX_STRIKES
from pipeline.study.storage.ledger import Lease, LeaseLost
from pipeline.study.storage.reopen import AtWork, Reopening, reopen
from pipeline.study.storage.transitions import Step

Seen = tuple[State | None, int, int]  # a trial's state, token and strikes
Act = Callable[[Desk, Lease], object]
TABLE = {name: step for name, step in vars(transitions).items() if isinstance(step, Step)}
STARTED: Seen = (State.RUNNING, 1, 0)


def expire(desk: Desk) -> None:
    with sa.create_engine(desk.url, poolclass=sa.NullPool).begin() as db:
        db.execute(sa.text("UPDATE trials SET expires = 0, owner = NULL"))


def take_over(desk: Desk, lease: Lease) -> None:
    expire(desk)
    desk.claim("b", budget=1)


def open_again(desk: Desk, lease: Lease) -> None:
    """As one that failed, or as one that saw another fail."""
    expire(desk)
    states = [trial.state for trial in desk.ledger.trials(STUDY)]
    failed, seeing = ([0], []) if states == [State.FAILED] else ([], [0])
    reopen(desk.ledger, Reopening(STUDY, failed, seeing))


ACTS: dict[str, list[Act]] = {
    "START": [lambda desk, _: desk.claim("b", budget=1)],
    "TAKE_OVER": [take_over],
    "FAIL_KILLER": [take_over],
    "KEEP": [
        lambda desk, lease: desk.ledger.renew(lease),
        lambda desk, lease: desk.ledger.report(lease, curve(1)),
    ],
    "ADVANCE": [lambda desk, lease: desk.ledger.report(lease, curve(3))],
    "FINISH": [
        lambda desk, lease, end=end: desk.ledger.finish(lease, end, curve(4), None)
        for end in FINISHED
    ],
    "GIVE_BACK": [lambda desk, _: desk.ledger.release("a", blameless=True)],
    "STRIKE": [lambda desk, _: desk.ledger.release("a", blameless=False)],
    "REOPEN": [open_again],
}
PLACES = [None, *State]


def trial_in(desk: Desk, state: State | None, strikes: int) -> Lease:
    """A trial of one reported epoch, with strikes, whose last lease this is."""
    if state is None:
        return Lease(STUDY, 0, 1, 0, 0, None, {}, [])
    lease = desk.must_claim("a")
    desk.ledger.report(lease, curve(1))
    with sa.create_engine(desk.url, poolclass=sa.NullPool).begin() as db:
        db.execute(sa.text(f"UPDATE trials SET strikes = {strikes}"))
    if state != State.RUNNING:
        desk.ledger.finish(lease, state, curve(2), None)
    return lease


def seen(desk: Desk) -> Seen:
    with sa.create_engine(desk.url, poolclass=sa.NullPool).connect() as db:
        row = db.execute(sa.text("SELECT state, token, strikes FROM trials")).first()
    return (State(row.state), row.token, row.strikes) if row else (None, 0, 0)


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("place", PLACES, ids=str)
def test_a_step_does_what_the_table_says(tmp_path: Path, name: str, place: State | None) -> None:
    step, reached = TABLE[name], set()
    for number, act in enumerate(ACTS[name]):
        desk = Desk(f"sqlite:///{tmp_path / f'{number}.db'}")
        lease = trial_in(desk, place, MAX_STRIKES if name == "FAIL_KILLER" else 2)
        before = seen(desk)
        with suppress(LeaseLost, AtWork):
            act(desk, lease)
        after = seen(desk)
        if place in step.before:
            reached.add(after[0])
            assert after[1] == before[1] + step.token
            assert after[2] == (0 if step.strikes is None else before[2] + step.strikes)
        else:  # a claim that finds nothing to take over starts a trial
            assert after == before or (place is None and after == STARTED)
    assert reached == (set(step.after) if place in step.before else set())


def test_every_step_is_tried() -> None:
    assert TABLE.keys() == ACTS.keys()
