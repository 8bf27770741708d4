"""The policies that `bench.landscape` compares."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from pipeline.results.states import State
from pipeline.seeds import derive_seed
from pipeline.settings.hyperparameters import Value
from pipeline.settings.space import Space
from pipeline.study.search.informing import first_tried
from pipeline.study.search.plan import Planner
from pipeline.study.search.propose import Proposer
from pipeline.study.search.sampler import ask, centre, distribution, encode
from pipeline.study.storage.rows import Part


@dataclass(frozen=True)
class Job:
    """A stretch of training that a worker is given."""

    trial: int
    setting: dict[str, Value]
    since: int = 0
    part: int = 0


class Land(Protocol):
    """What a policy may know of a landscape: its number, and a formula of an epoch's cost."""

    number: int
    epochs: int
    observations: list[dict[str, Value]]  # of elsewhere, best first

    def guess(self, setting: dict[str, Value]) -> float: ...


class Policy(Protocol):
    """Says what to train; `report` says whether a job ends after an epoch."""

    def ask(self) -> Job | None: ...

    def report(self, job: Job, epoch: int, value: float) -> bool: ...

    def top(self) -> list[dict[str, Value]]: ...


class Ours:
    """The project's planner and proposer."""

    def __init__(
        self,
        space: Space,
        land: Land,
        workers: int,
        observations: Sequence[dict[str, Value]] = (),
        **changes: Any,
    ):
        extra = {"trials": 10**6, "epochs": land.epochs, "parallelism": workers,
                 "seed": land.number, **changes}  # fmt: skip
        search = space.search.model_validate({**space.search.model_dump(), **extra})
        self._space = space.model_copy(update={"search": search})
        self._planner = Planner(self._space)
        first = first_tried(space.searched, search, observations, lambda chosen: True)
        self._proposer = Proposer(space.searched, search, informing=first)
        self._land = land
        self._curves: dict[int, list[float]] = {}

    def ask(self) -> Job | None:
        planner = self._planner
        step = planner.next()
        if step is None:
            return None
        if step.is_new:
            chosen = self._proposer.propose(planner)
            self._curves[step.trial] = []
            until = planner.first_pause(chosen)
        else:
            chosen, until = planner.trials[step.trial].parameters, step.until
        part = Part(
            study="", number=step.number, trial=step.trial, since=step.since, until=until,
            starts=step.place.starts, follows=step.place.follows,
            cost=math.ceil(1e6 * self._land.guess(chosen)), epochs=step.since, state=State.RUNNING,
            parameters=chosen, curve=[],
        )  # fmt: skip
        planner.update([part])
        return Job(step.trial, chosen, step.since, step.number)

    def report(self, job: Job, epoch: int, value: float) -> bool:
        part = self._planner.parts[job.part]
        self._curves[job.trial].append(value)
        ended = epoch == part.until
        change: dict[str, Any] = {"epochs": epoch}
        if ended:
            over = epoch == self._space.search.epochs
            change["state"] = State.COMPLETE if over else State.PAUSED
            change["result"] = {"nelbo_nats": min(self._curves[job.trial])}
            change["curve"] = [{"nelbo_nats": each} for each in self._curves[job.trial]]
            self._planner.update([replace(part, **change)])
        else:
            self._planner.update([replace(part, **change)])
        return ended

    def top(self) -> list[dict[str, Value]]:
        known = [t for t in self._planner.trials if t.result]
        known.sort(key=lambda t: (t.result or {})["nelbo_nats"])
        return [t.parameters for t in known[:2]]


class Before:
    """TPE and halving that stops, each trial seeing those up to number − workers; as ever, none is
    stopped within its KL warm-up."""

    def __init__(self, space: Space, land: Land, workers: int, factor: int = 3):
        self._searched = space.searched
        self._factor, self._workers, self._land = factor, workers, land
        self._settings: list[dict[str, Value]] = []
        self._curves: list[list[float]] = []
        self._state: list[str] = []

    def ask(self) -> Job | None:
        import optuna

        number = len(self._settings)
        seen = number - self._workers + 1
        if any(state == "running" for state in self._state[: max(seen, 0)]):
            return None
        if number == 0:
            chosen = centre(self._searched)
        else:
            optuna.logging.set_verbosity(optuna.logging.ERROR)
            study = optuna.create_study(direction="minimize")
            study.add_trials([self._frozen(n) for n in range(max(seen, 0))])
            seed = derive_seed(self._land.number, "propose", number) % 2**32
            chosen = ask(study, optuna.samplers.TPESampler(seed=seed), self._searched)
        self._settings.append(chosen)
        self._curves.append([])
        self._state.append("running")
        return Job(number, chosen)

    def report(self, job: Job, epoch: int, value: float) -> bool:
        curve = self._curves[job.trial]
        curve.append(value)
        if epoch == self._land.epochs:
            self._state[job.trial] = "complete"
            return True
        rung = self._factor ** round(math.log(epoch, self._factor))
        warm = math.ceil(job.setting.get("kl_warmup", 0.0) * self._land.epochs)
        if rung != epoch or epoch <= warm:
            return False
        others = [
            c for c in self._curves[: max(job.trial - self._workers + 1, 0)] if len(c) >= epoch
        ]
        values = [c[epoch - 1] for c in others]
        if len(values) >= 4 and sum(v < value for v in values) >= max(
            1, (len(values) + 1) // self._factor
        ):
            self._state[job.trial] = "pruned"
            return True
        return False

    def top(self) -> list[dict[str, Value]]:
        whole = [n for n, state in enumerate(self._state) if state == "complete"]
        return [self._settings[n] for n in sorted(whole, key=lambda n: min(self._curves[n]))[:2]]

    def _frozen(self, number: int) -> Any:
        import optuna

        state = optuna.trial.TrialState
        chosen, curve = self._settings[number], self._curves[number]
        whole = self._state[number] == "complete"
        names = [name for name in self._searched if name in chosen]
        return optuna.trial.create_trial(
            state=state.COMPLETE if whole else state.PRUNED,
            values=[min(curve)] if whole else None,
            intermediate_values={} if whole else {len(curve): curve[-1]},
            params={name: encode(self._searched[name], chosen[name]) for name in names},
            distributions={name: distribution(self._searched[name]) for name in names},
        )


def _optuna(space: Space, land: Land, workers: int, sampler: str, pruner: str) -> Policy:
    from bench.optuna_policies import Optuna

    return Optuna(space, land, workers, sampler, pruner)


POLICIES: dict[str, Callable[..., Policy]] = {
    "before": Before,
    "rungs": Ours,
    "rungs 1 3 8 16": lambda *a: Ours(*a, rungs=[1, 3, 8, 16]),
    "rungs 1 2 4 8 16": lambda *a: Ours(*a, rungs=[1, 2, 4, 8, 16]),
    "rungs, halving": lambda *a: Ours(*a, rungs=[1, 2, 4, 8, 16], reduction_factor=2),
    "rungs, a third at random": lambda *a: Ours(*a, random_share=1 / 3),
    "rungs, informed": lambda s, land, w: Ours(s, land, w, land.observations),
    "rungs, misled": lambda s, land, w: Ours(s, land, w, land.observations[::-1]),
    "rungs, random": lambda *a: Ours(*a, sampler="random"),
    "Optuna, random": lambda *a: _optuna(*a, "random", "none"),
    "Optuna, TPE": lambda *a: _optuna(*a, "tpe", "none"),
    "Optuna, TPE + median": lambda *a: _optuna(*a, "tpe", "median"),
    "Optuna, TPE + halving": lambda *a: _optuna(*a, "tpe", "halving"),
    "Optuna, TPE + hyperband": lambda *a: _optuna(*a, "tpe", "hyperband"),
}
