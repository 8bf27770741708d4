"""The next part of a study as a worker puts it before the ledger."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.settings.hyperparameters import Value
from pipeline.study.claim import Plan
from pipeline.study.propose import Proposer
from pipeline.study.race import Ask
from pipeline.study.rows import Record
from pipeline.study.watch import Watch


def next_plan(
    watch: Watch, proposer: Proposer, cost: Callable[[dict[str, Value]], int]
) -> Plan | None:
    """The next part of a search; None: there is none by now. `cost` is that of an epoch."""
    planner = watch.planner
    step = planner.next()
    if step is None:
        return None
    curve: list[Record] = []
    if step.is_new:
        chosen = proposer.propose(planner)
        until, each = planner.first_pause(chosen), cost(chosen)
    else:
        before = planner.latest(step.trial)
        chosen, curve = before.parameters or {}, before.curve
        until, each = step.until, before.cost
    return Plan(
        number=step.number,
        trial=step.trial,
        since=step.since,
        until=until,
        starts=step.place.starts,
        follows=step.place.follows,
        cost=each,
        parameters=chosen,
        curve=curve,
        reopened=watch.reopened or 0,
    )


def run_plan(watch: Watch, ask: Ask, parameters: dict[str, Value]) -> Plan:
    """The next part of a candidate's run."""
    before = watch.last.get(ask.seed)
    curve = before.curve if before else []
    return Plan(
        number=watch.count,
        trial=ask.seed,
        since=len(curve),
        until=ask.until,
        starts=0,
        follows=None,
        cost=0,
        parameters=parameters,
        curve=curve,
        reopened=watch.reopened or 0,
    )
