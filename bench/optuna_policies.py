"""Optuna as people use it, for `bench.landscape`: its samplers and pruners, asked and told."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bench.policies import Job, Land
from pipeline.settings.hyperparameters import Value
from pipeline.settings.space import Space
from pipeline.study.search.sampler import distribution

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.trial import Trial


class Optuna:
    """One study that all workers share: each asks for a trial, reports every epoch, and asks
    whether to prune. With several workers TPE is told to lie about those at work, as its
    documentation says. A pruned trial is worth what it last reported."""

    def __init__(self, space: Space, land: Land, workers: int, sampler: str, pruner: str):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        samplers = optuna.samplers
        chosen = (
            samplers.RandomSampler(seed=land.number)
            if sampler == "random"
            else samplers.TPESampler(
                seed=land.number,
                n_startup_trials=space.search.startup_trials,
                constant_liar=workers > 1,
            )
        )
        self._study = optuna.create_study(sampler=chosen, pruner=_pruner(pruner, land.epochs))
        self._space, self._epochs = space, land.epochs
        self._trials: list[Trial] = []
        self._settings: list[dict[str, Value]] = []
        self._best: list[float] = []
        self._ends: dict[int, float] = {}

    def ask(self) -> Job:
        """Always a new trial: nobody waits for anybody."""
        known = {name: distribution(domain) for name, domain in self._space.searched.items()}
        trial = self._study.ask(known)
        texts = {name for name, each in known.items() if type(each).__name__.startswith("Categ")}
        setting = {n: json.loads(v) if n in texts else v for n, v in trial.params.items()}
        self._trials.append(trial)
        self._settings.append(setting)
        self._best.append(float("inf"))
        return Job(len(self._trials) - 1, setting)

    def report(self, job: Job, epoch: int, value: float) -> bool:
        """The lowest so far is what a trial is worth, as in training that keeps its best epoch."""
        from optuna.trial import TrialState

        trial, best = self._trials[job.trial], min(self._best[job.trial], value)
        self._best[job.trial] = best
        if epoch == self._epochs:
            self._study.tell(trial, best)
            self._ends[job.trial] = best
            return True
        trial.report(value, epoch)
        if trial.should_prune():
            self._study.tell(trial, state=TrialState.PRUNED)
            return True
        return False

    def top(self) -> list[dict[str, Value]]:
        return [self._settings[n] for n in sorted(self._ends, key=self._ends.__getitem__)[:2]]


def _pruner(name: str, epochs: int) -> BasePruner:
    """By Optuna's own defaults; rungs begin at the first epoch and end at the last."""
    from optuna import pruners

    made: dict[str, Any] = {
        "none": pruners.NopPruner,
        "median": pruners.MedianPruner,
        "halving": lambda: pruners.SuccessiveHalvingPruner(min_resource=1),
        "hyperband": lambda: pruners.HyperbandPruner(min_resource=1, max_resource=epochs),
    }
    return made[name]()
