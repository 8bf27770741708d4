"""Hand-made spaces and trials for tests of the stages' decisions."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from pipeline.settings.space import Space, parse_space
from pipeline.study.storage.claim import Claimant, Plan
from pipeline.study.storage.ledger import Lease, Ledger
from pipeline.study.storage.look import look_at
from pipeline.study.storage.rows import Part, Trial

SPACE: dict[str, Any] = {
    "data": {"name": "digits"},
    "parameters": {"beta": {"choices": [0.25, 1.0]}, "monitor": {"choices": ["total", "recon"]}},
    "search": {"trials": 4, "epochs": 3, "parallelism": 2},
    "retrain": {"top": 2, "seeds": 3, "epochs": 3},
}


def space(**sections: dict[str, Any]) -> Space:
    """The sweep `tiny`, with these keys of its sections over the ones above."""
    merged = {name: {**SPACE.get(name, {}), **keys} for name, keys in sections.items()}
    return parse_space("tiny", {**SPACE, **merged}, "search_spaces/tiny.yaml")


def record(epoch: int, recon: float, kl: float) -> dict[str, Any]:
    """What an epoch leaves behind, as far as decisions read it."""
    return {"epoch": epoch, "nelbo_nats": recon + kl, "recon_nats": recon, "kl_nats": kl}


def trial(number: int, nelbo: float | None = None, **changes: Any) -> Trial:
    """A trial that completed with this validation NELBO, or failed."""
    result = None if nelbo is None else {"nelbo_nats": nelbo, "weights": 100}
    known: dict[str, Any] = {
        "study": "tiny-0123456789ab",
        "number": number,
        "trial": number,
        "since": 0,
        "until": 0,
        "starts": 0,
        "follows": None,
        "cost": 1,
        "state": "complete" if result else "failed",
        "parameters": {"beta": 1.0, "lr": number / 1000},
        "curve": [],
        "result": result,
        "reason": None if result else "the training loss is not finite in epoch 1",
        "finished_ms": 1,
        **changes,
    }
    return Trial(**{"epochs": len(known["curve"]), **known})


def whole(trial: Trial, **changes: Any) -> Part:
    """The one part of a trial that never paused."""
    known = {each.name: getattr(trial, each.name) for each in fields(Part)}
    return Part(**{**known, **changes})


def begin(
    ledger: Ledger, study: str, parameters: dict[str, Any], *, until: int, owner: str = "a/1/1"
) -> Lease:
    """A worker begins the next trial of a study, with these parameters."""
    plan = next_trial(ledger, study, parameters, until)
    lease = ledger.begin(study, plan, Claimant(owner))
    assert lease
    return lease


def next_trial(ledger: Ledger, study: str, parameters: dict[str, Any], until: int) -> Plan:
    """The next trial of a study as one part."""
    number = len(ledger.parts(study))
    reopened = look_at(ledger, study, number, []).reopened
    return Plan(number, number, 0, until, 0, None, 1, parameters, [], reopened)


def next_lease(
    ledger: Ledger,
    study: str,
    parameters: dict[str, Any] | None = None,
    *,
    budget: int = 100,
    owner: str = "a/1/1",
    meta: dict[str, Any] | None = None,
    mixed: bool = False,
) -> Lease | None:
    """What a worker gets: a part whose worker is gone, else the next trial, to the last epoch."""
    who = Claimant(owner, meta or {}, mixed)
    while not (lease := ledger.claim(study, who, budget=budget)):
        plan = next_trial(ledger, study, parameters or {}, until=0)
        if plan.number >= budget:
            return None
        if lease := ledger.begin(study, plan, who):  # nobody was faster
            return lease
    return lease
