"""Searches without training: workers whose timing is drawn at random, trials that cost nothing."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.results.states import State
from pipeline.seeds import derive_seed
from pipeline.settings.hyperparameters import Value
from pipeline.settings.space import Space, parse_space
from pipeline.study.identity import Study, search_study
from pipeline.study.search.plan import Planner
from pipeline.study.search.propose import Proposer
from pipeline.study.storage.claim import Claimant, Lease, Plan, Reopened
from pipeline.study.storage.ledger import Ledger
from pipeline.study.storage.rows import Part, Trial, trials_of
from pipeline.study.watch import Watch

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
    """Some fail, some end early."""
    if number % 7 == 3:
        return "failed", None
    return ("stopped", None) if number % 5 == 1 else complete(number, parameters)


def cost(parameters: Parameters) -> int:
    """Of an epoch, on the virtual clock: unequal, and often equal."""
    return 10 + parameters.get("batch_size", 32) // 32 * 7


def epoch(trial: int, parameters: Parameters, number: int) -> dict[str, Any]:
    """What an epoch comes to: it falls towards the value, sooner or later."""
    value = bowl(parameters) + 3 / number * (1 + trial % 3)
    return {"epoch": number, "nelbo_nats": value}


class Worker:
    """Begins, trains and finishes one part, a step whenever it is told to."""

    def __init__(self, space: Space, ledger: Ledger, ends: Callable[[int, Parameters], Outcome]):
        self._space, self._ledger, self._ends = space, ledger, ends
        self._lease: Lease | None = None
        self._curve: list[dict[str, Any]] = []
        self.restart()

    def restart(self) -> None:
        """Forgets what another process could not know."""
        self.watch = Watch(self._ledger, toy_study(self._space), self._space)
        self._proposer = proposer(self._space)

    def die(self) -> None:
        """Leaves its part as it is, to be gone on with by another one."""
        if self._lease:
            self._ledger.release(f"{id(self)}", blameless=True)
            self._lease = None
        self.restart()

    def step(self) -> None:
        """The next thing that it can do."""
        if self._lease is None:
            self._claim()
        elif self._over():
            self._finish(self._lease)
        else:
            self._curve.append(epoch(self._lease.trial, self._chosen, len(self._curve) + 1))
            if not self._over():
                self._ledger.report(self._lease, self._curve)

    def _claim(self) -> None:
        self.watch.refresh()
        who = Claimant(f"{id(self)}")
        self._lease = self._ledger.claim(STUDY, who, budget=len(self.watch.parts))
        if self._lease is None and (made := plan(self.watch, self._proposer)):
            try:
                self._lease = self._ledger.begin(STUDY, made, who)
            except Reopened:
                self.restart()
        if self._lease:
            self._chosen = self._lease.parameters or {}
            self._curve = list(self._lease.curve)

    def _over(self) -> bool:
        assert self._lease
        assert self._lease.until
        state, _ = self._ends(self._lease.trial, self._chosen)
        early = {"failed": 1, "stopped": 2}.get(state, self._lease.until)
        return len(self._curve) >= min(early, self._lease.until)

    def _finish(self, lease: Lease) -> None:
        state, result = self._ends(lease.trial, self._chosen)
        epochs = len(self._curve)
        if state == "failed":
            self._ledger.finish(lease, State.FAILED, self._curve[:-1], None, "broken")
        else:
            best = min(record["nelbo_nats"] for record in self._curve)
            ended = (state == "stopped" and epochs == 2) or epochs >= self._space.search.epochs
            end = State.COMPLETE if ended else State.PAUSED
            self._ledger.finish(lease, end, self._curve, {**(result or {}), "nelbo_nats": best})
        self._lease = None


def plan(watch: Watch, proposer: Proposer) -> Plan | None:
    """As a worker plans, with costs that need no model."""
    return watch.planner.plan(proposer.propose, cost, watch.reopened or 0)


def toy_study(space: Space) -> Study:
    return replace(search_study(space, ""), id=STUDY, budget=space.search.trials)


def proposer(space: Space) -> Proposer:
    return Proposer(space.searched, space.search)


def planner_of(space: Space, parts: list[Part]) -> Planner:
    """Who has followed a search so far."""
    planner = Planner(space)
    planner.update(parts)
    return planner


def search(
    space: Space,
    folder: Path,
    workers: int = 1,
    *,
    timing: int = 0,
    restarts: float = 0.0,
    ends: Callable[[int, Parameters], Outcome] = mixed,
    url: str | None = None,
    begins_with: Sequence[Part] = (),
) -> list[Part]:
    """All parts of a search by workers that take turns at random and sometimes start anew."""
    name = f"{derive_seed(workers, timing, space.search.trials, space.search.total_epochs)}"
    folder.mkdir(exist_ok=True)
    ledger = Ledger(url or f"sqlite:///{folder}/{name}.db")
    ledger.open_study(STUDY, "toy", "search", {}, begins_with=begins_with)
    draw = random.Random(timing)
    crew = [Worker(space, ledger, ends) for _ in range(workers)]
    speeds = [draw.choice([1, 1, 5]) for _ in crew]
    watch = Watch(ledger, toy_study(space), space)
    while not watch.planner.finished:
        (worker,) = draw.choices(crew, speeds)
        if draw.random() < restarts:
            worker.die()
        worker.step()
        watch.refresh()
    parts = ledger.parts(STUDY)
    ledger.close()
    return parts


def outcome(parts: list[Part]) -> list[Any]:
    """All that follows from a search, without who did it and when."""
    return [
        (p.number, p.trial, p.since, p.until, p.starts, p.follows, p.cost, p.state, p.parameters,
         p.curve, p.result)
        for p in parts
    ]  # fmt: skip


def trials(space: Space, folder: Path, workers: int = 1, **options: Any) -> list[Trial]:
    """The same as trials."""
    return trials_of(search(space, folder, workers, **options))
