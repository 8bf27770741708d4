"""Searches without training: workers whose timing is drawn at random, trials that cost nothing."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.config import Space, parse_space
from pipeline.hyperparameters import Value
from pipeline.seeds import derive_seed
from pipeline.study.history import History
from pipeline.study.identity import Study, search_study
from pipeline.study.ledger import Lease, Ledger, Trial
from pipeline.study.propose import Proposer

Parameters = dict[str, Value]
Outcome = tuple[str, dict[str, float] | None]  # state and result

STUDY = "toy"
PARAMETERS: dict[str, Any] = {
    "lr": {"low": 1e-3, "high": 1.0, "log": True},
    "beta": {"low": 0.0, "high": 2.0},
    "latent_dim": {"low": 4, "high": 16},
    "batch_size": {"low": 32, "high": 128, "step": 32},
    "hidden": {"choices": [[8], [16, 8]]},
    "patience": {"choices": [None, 3]},
    "optimizer": {"choices": ["adam", "sgd", "adamw"]},
    "momentum": {"low": 0.0, "high": 0.9, "when": {"optimizer": ["sgd", "adamw"]}},
    "weight_decay": {"low": 1e-3, "high": 1e-1, "log": True, "when": {"optimizer": "adamw"}},
}


def toy_space(parameters: dict[str, Any] = PARAMETERS, **search: Any) -> Space:
    raw = {"data": {"name": "digits"}, "parameters": parameters, "search": search}
    return parse_space("toy", raw, "toy.yaml")


def bowl(parameters: Parameters) -> float:
    """A NELBO in nats with its minimum 100 at lr 0.03, beta 1 and latent_dim 8."""
    lr, beta, latent = (parameters.get(name, 1) for name in ("lr", "beta", "latent_dim"))
    return 100 + math.log10(lr / 0.03) ** 2 + (beta - 1) ** 2 + (latent / 8 - 1) ** 2


def complete(_: int, parameters: Parameters) -> Outcome:
    value = bowl(parameters)
    kl = 2 * parameters.get("beta", 1.0)
    return "complete", {"nelbo_nats": value, "kl_nats": kl, "recon_nats": value - kl}


def mixed(number: int, parameters: Parameters) -> Outcome:
    """Some fail, some are pruned."""
    if number % 7 == 3:
        return "failed", None
    return ("pruned", None) if number % 5 == 1 else complete(number, parameters)


def finish(ledger: Ledger, lease: Lease, parameters: Parameters, outcome: Outcome) -> None:
    state, result = outcome
    value = bowl(parameters)
    epochs = {"complete": 3, "pruned": 1 + lease.number % 2, "failed": 0}[state]
    curve = [{"epoch": e, "nelbo_nats": value + 3 - e} for e in range(1, epochs + 1)]
    ledger.finish(lease, state, curve, result)


class Worker:
    """Claims, proposes and finishes one trial, each when it is told to."""

    def __init__(self, space: Space, ledger: Ledger, ends: Callable[[int, Parameters], Outcome]):
        self._space, self._ledger, self._ends = space, ledger, ends
        self._study = toy_study(space)
        self._lease: Lease | None = None
        self._parameters: Parameters | None = None
        self.restart()

    def restart(self) -> None:
        """Forgets what another process could not know."""
        self._proposer = proposer(self._space, self._ledger)

    def step(self) -> None:
        """The next of the three, if it may."""
        if self._lease is None:
            budget, parallelism = self._ledger.admitted(self._study), self._study.parallelism
            self._lease = self._ledger.claim(
                STUDY, budget=budget, parallelism=parallelism, owner="a", meta={}
            )
        elif self._parameters is None:
            self._parameters = self._proposer.propose(self._lease.number)
            self._ledger.propose(self._lease, self._parameters)
        else:
            outcome = self._ends(self._lease.number, self._parameters)
            finish(self._ledger, self._lease, self._parameters, outcome)
            self._lease = self._parameters = None


def toy_study(space: Space) -> Study:
    return replace(search_study(space, ""), id=STUDY, budget=space.search.trials)


def proposer(space: Space, ledger: Ledger) -> Proposer:
    return Proposer(space.searched, space.search, History(ledger, STUDY))


def search(
    space: Space,
    folder: Path,
    workers: int = 1,
    *,
    timing: int = 0,
    restarts: float = 0.0,
    ends: Callable[[int, Parameters], Outcome] = mixed,
) -> list[Trial]:
    """All trials of a search by workers that take turns at random and sometimes start anew."""
    ledger = Ledger(f"sqlite:///{folder}/{derive_seed(workers, timing)}.db")
    ledger.open_study(STUDY, "toy", "search", {})
    crew = [Worker(space, ledger, ends) for _ in range(workers)]
    draw = random.Random(timing)
    while not ledger.is_over(toy_study(space)):
        worker = draw.choice(crew)
        if draw.random() < restarts:
            worker.restart()
        worker.step()
    trials = ledger.trials(STUDY)
    ledger.close()
    return trials
