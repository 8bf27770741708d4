"""What a search will take, told by playing it with values that are drawn at random.

Who goes on at a rung depends on the values, but hardly how many do; so a search whose settings and
values are drawn at random takes about as many epochs as a real one. Nothing is trained, and the
answer is always the same.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.results.states import State
from pipeline.seeds import derive_seed
from pipeline.settings.hyperparameters import Value
from pipeline.settings.space import Space
from pipeline.study.search.clock import cost_of
from pipeline.study.search.constraints import within
from pipeline.study.search.plan import Planner
from pipeline.study.search.propose import Proposer
from pipeline.study.storage.claim import PLANNED, Plan
from pipeline.study.storage.rows import Part

PLAYED = 200  # trials, of one long search or of several short ones

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Forecast:
    """Of a whole search in which nothing fails, is pruned or stops early."""

    epochs: int  # those of kept trials among them
    cost: float  # of the others, as `pipeline.vae.cost` counts; an epoch's is 1 without a shape


def forecast(
    space: Space, shape: Shape | None = None, images: int = 0, begins_with: Sequence[Part] = ()
) -> Forecast:
    """Plays the search; for images (C, H, W), so many of them to train on, also what it costs.
    `begins_with` are the parts of kept trials.

    What is told is the mean of several plays, since the order of the values matters in short ones.
    """
    search = space.search
    if not space.searched:
        return Forecast(0, 0.0)
    kept = len({part.trial for part in begins_with})
    had = sum(part.epochs - part.since for part in begins_with)
    new = max(0, search.trials - kept)
    trials = min(new, PLAYED)
    plays, share = max(1, PLAYED // max(1, trials + kept) // 2), new / trials if new else 1.0
    total = search.total_epochs and max(
        search.epochs, had + round((search.total_epochs - had) / share)
    )
    shorter = {"trials": kept + trials, "total_epochs": total, "stop": None}
    space = space.model_copy(update={"search": search.model_copy(update=shorter)})
    drawing = search.model_copy(update={"sampler": "random", "random_share": 0.0})
    rule = within(space, shape) if shape else lambda chosen: True
    proposer = Proposer(space.searched, drawing, rule)
    cost = cost_of(space, shape, images) if shape else lambda chosen: 1
    drawn: list[dict[str, Value]] = []  # by trial

    def propose(planner: Planner) -> dict[str, Value]:
        number = len(planner.trials) - kept
        if number == len(drawn):
            drawn.append(proposer.propose(planner))
        return drawn[number]

    played: list[Part] = []
    for play in range(plays):
        planner = Planner(space)
        planner.update([_of_value(part, play) for part in begins_with])
        while plan := planner.plan(propose, cost, 0):
            planner.update([_of_value(_ended(space, plan), play)])
        played += planner.parts[len(begins_with) :]
    epochs = sum(part.epochs - part.since for part in played)
    spent = sum((part.epochs - part.since) * part.cost for part in played)
    return Forecast(had + round(share * epochs / plays), share * spent / plays)


def _ended(space: Space, plan: Plan) -> Part:
    """The part, trained up to its rung."""
    state = State.COMPLETE if plan.until >= space.search.epochs else State.PAUSED
    place = {name: getattr(plan, name) for name in PLANNED}
    return Part(study="", epochs=plan.until, state=state, parameters=plan.parameters, curve=[],
                result={}, **place)  # fmt: skip


def _of_value(part: Part, play: int) -> Part:
    """The part with a value that is drawn for its trial; a failure has none."""
    if part.result is None:
        return part
    value = random.Random(derive_seed("forecast", play, part.trial)).random()
    return replace(part, result={"nelbo_nats": value, "kl_nats": value, "recon_nats": 0.0})
