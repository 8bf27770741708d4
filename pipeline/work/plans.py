"""The next part of a study as a worker puts it before the ledger."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.settings.hyperparameters import Value
from pipeline.study.claim import Plan
from pipeline.study.propose import Proposer
from pipeline.study.race import Ask
from pipeline.study.watch import Watch


def next_plan(
    watch: Watch, proposer: Proposer, cost: Callable[[dict[str, Value]], int]
) -> Plan | None:
    """The next part of a search; None: there is none by now. `cost` is that of an epoch."""
    step = watch.planner.next()
    if step is None:
        return None
    return watch.planner.plan(step, proposer.propose, cost, watch.reopened or 0)


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
