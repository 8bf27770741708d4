"""Proposals: the parameters of trial n as a pure function of what came before.

They depend on the space, the study's seed, n, and the finished trials ≤ n - parallelism alone, so
the outcome of a search is the same on any number of workers. An in-memory Optuna study is played
forward: trials ≤ n - parallelism with their results, the later ones as still running (their
parameters are such functions too), then asked by a sampler whose seed is drawn from (seed, n). A
sampler that lived longer would depend on which proposals its own process happened to make, and
one that is built anew with the study's seed would repeat its draws.

What a sampler reads of a long study is bounded (see `Proposer`), so that trial 5 000 costs no more
than trial 500.
"""

from __future__ import annotations

import json
import random
from typing import Any

from pipeline.config import Search
from pipeline.hyperparameters import Choices, Domain, Value, grid
from pipeline.seeds import derive_seed
from pipeline.study.history import History
from pipeline.study.ledger import Trial

BLOCK = 200  # trials
ELDERS = 50  # TPE models its good trials by 25 at most


class Proposer:
    """Proposes the parameters of trials, best in the order of their numbers.

    The numbers are divided into blocks of `BLOCK` trials. A proposal sees the trials of its own
    block and of the one before, and of the older ones the best `ELDERS`; so it sees all of the
    first 2 · BLOCK trials. CMA-ES, whose state lives in all its asks, and a sweep with two
    objectives, where no few trials are the best, see all trials always.
    """

    def __init__(self, searched: dict[str, Domain], search: Search, history: History):
        self._searched = searched
        self._search = search
        self._history = history
        self._cells: list[dict[str, Value]] | None = None
        self._study: Any = None
        self._elders = 0  # how many of the best older trials the study begins with
        self._first = 0  # the trial after them
        self._next = 0  # trials < _next are in the study
        self._told = 0  # trials < _told have their results in it
        self._before: Proposer | None = None  # for what the block before has not proposed yet

    def propose(self, number: int) -> dict[str, Value]:
        """The searched parameters of trial `number`; conditional ones only where they exist."""
        if not self._searched:
            return {}
        if self._search.sampler == "grid":
            return self._grid_cell(number)
        if self._search.sampler == "random":
            return self._ask(_new_study(self._search), number)
        if number == 0:
            return centre(self._searched)
        return self._play_to(number)

    def _grid_cell(self, number: int) -> dict[str, Value]:
        if self._cells is None:
            self._cells = list(grid(self._searched))
            random.Random(derive_seed(self._search.seed, "grid")).shuffle(self._cells)
        return self._cells[number]

    def _play_to(self, number: int) -> dict[str, Value]:
        first = self._first_seen(number)
        if self._study is None or self._first != first or self._next > number:
            self._begin(first)
        horizon = number - self._search.parallelism  # the last trial whose result may be used
        proposed = self._proposed(self._next, number)
        for earlier in range(self._next, number):
            self._tell_to(earlier - self._search.parallelism)
            self._add(earlier, proposed.get(earlier))
        self._tell_to(horizon)
        self._next = number + 1
        return self._ask(self._study, number)

    def _first_seen(self, number: int) -> int:
        """The first trial that a proposal sees whether it is among the best or not."""
        if self._search.sampler == "cmaes" or len(self._search.objectives) > 1:
            return 0
        block = max(BLOCK, self._search.startup_trials, self._search.parallelism)
        return max(0, number // block - 1) * block

    def _begin(self, first: int) -> None:
        """A new study that holds the best of the trials before `first`; all are finished."""
        self._study = _new_study(self._search)
        self._first = self._next = self._told = first
        self._before = None
        older = [trial for trial in self._history.finished(0, first - 1) if trial.result]
        complete = [trial for trial in older if trial.state == "complete"]
        best = sorted(complete, key=lambda trial: (self._values(trial), trial.number))[:ELDERS]
        for trial in sorted(best, key=lambda trial: trial.number):
            assert trial.parameters is not None
            self._study.add_trial(self._frozen(trial.parameters, self._values(trial)))
        self._elders = len(best)

    def _proposed(self, first: int, end: int) -> dict[int, dict[str, Value]]:
        """What the ledger knows of the parameters of trials first..end-1."""
        if self._search.sampler == "cmaes":
            return {}  # its state lives in its own asks, so all of them are played again
        finished_to = max(end - self._search.parallelism, first - 1)
        rows = [
            *self._history.finished(first, finished_to),
            *self._history.running(finished_to + 1, end - 1),
        ]
        return {row.number: row.parameters for row in rows if row.parameters is not None}

    def _add(self, number: int, parameters: dict[str, Value] | None) -> None:
        if number == 0:
            parameters = centre(self._searched)
        if parameters is None and self._first_seen(number) == self._first:
            self._ask(self._study, number)  # its worker has not got to it: the same, played here
            return
        if parameters is None:  # it is of the block before, and sees other trials
            self._before = self._before or Proposer(self._searched, self._search, self._history)
            parameters = self._before.propose(number)
        self._study.add_trial(self._frozen(parameters, None))

    def _frozen(self, parameters: dict[str, Value], values: list[float] | None) -> Any:
        """A trial of the in-memory study: running, or complete if it has values."""
        import optuna

        state = optuna.trial.TrialState
        names = [name for name in self._searched if name in parameters]
        return optuna.trial.create_trial(
            state=state.RUNNING if values is None else state.COMPLETE,
            values=values,
            params={name: _encode(self._searched[name], parameters[name]) for name in names},
            distributions={name: distribution(self._searched[name]) for name in names},
        )

    def _values(self, trial: Trial) -> list[float]:
        assert trial.result is not None
        return [trial.result[key] for key in self._search.objectives]

    def _tell_to(self, last: int) -> None:
        if last < self._told:
            return
        for trial in self._history.finished(self._told, last):
            self._tell(trial)
        self._told = last + 1

    def _tell(self, trial: Trial) -> None:
        import optuna

        state = optuna.trial.TrialState
        place = self._elders + trial.number - self._first
        if trial.state == "failed":
            self._study.tell(place, state=state.FAIL)
        elif trial.state == "complete":
            self._study.tell(place, self._values(trial))
        else:
            frozen = self._study.get_trials(deepcopy=False)[place]
            last = trial.curve[-1]
            optuna.trial.Trial(self._study, frozen._trial_id).report(
                last["nelbo_nats"], last["epoch"]
            )
            self._study.tell(place, state=state.PRUNED)

    def _ask(self, study: Any, number: int) -> dict[str, Value]:
        study.sampler = _without_conditional(_sampler(self._search, number), self._searched)
        trial = study.ask()
        chosen: dict[str, Value] = {}
        for name, domain in self._searched.items():
            if domain.active(chosen):
                chosen[name] = _suggest(trial, name, domain)
        return chosen


def centre(searched: dict[str, Domain]) -> dict[str, Value]:
    """The middle of every range and the first of all choices: trial 0 of a sampler that learns.

    A person writes a range around a guess and the usual choice first; the search begins there.
    """
    chosen: dict[str, Value] = {}
    for name, domain in searched.items():
        if domain.active(chosen):
            chosen[name] = domain.centre()
    return chosen


def distribution(domain: Domain) -> Any:
    """The Optuna distribution of a domain; choices of any type go by their JSON text."""
    import optuna

    if isinstance(domain, Choices):
        texts = [json.dumps(choice) for choice in domain.choices]
        return optuna.distributions.CategoricalDistribution(texts)
    if domain.integer:
        return optuna.distributions.IntDistribution(
            int(domain.low), int(domain.high), log=domain.log, step=int(domain.step or 1)
        )
    return optuna.distributions.FloatDistribution(
        domain.low, domain.high, log=domain.log, step=domain.step
    )


def _encode(domain: Domain, value: Value) -> Any:
    return json.dumps(value) if isinstance(domain, Choices) else value


def _suggest(trial: Any, name: str, domain: Domain) -> Value:
    if isinstance(domain, Choices):
        texts = [json.dumps(choice) for choice in domain.choices]
        return json.loads(trial.suggest_categorical(name, texts))
    if domain.integer:
        return trial.suggest_int(
            name, int(domain.low), int(domain.high), log=domain.log, step=int(domain.step or 1)
        )
    return trial.suggest_float(name, domain.low, domain.high, log=domain.log, step=domain.step)


def _new_study(search: Search) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(directions=["minimize"] * len(search.objectives))


def _sampler(search: Search, number: int) -> Any:
    import optuna

    seed = derive_seed(search.seed, "propose", number) % 2**32
    if search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if search.sampler == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=search.startup_trials)
    if search.sampler == "cmaes":
        return optuna.samplers.CmaEsSampler(
            seed=seed, n_startup_trials=search.startup_trials, warn_independent_sampling=False
        )
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=search.startup_trials)


def _without_conditional(sampler: Any, searched: dict[str, Domain]) -> Any:
    """The sampler, whose joint model leaves the conditional hyperparameters to independent draws.

    It would take one in as long as all finished trials have it, and draw it for a trial that then
    turns out not to have it: a value that this process would learn from, but not the others, who
    read the trial in the ledger.
    """
    infer = sampler.infer_relative_search_space

    def joint(study: Any, trial: Any) -> dict[str, Any]:
        return {name: d for name, d in infer(study, trial).items() if not searched[name].when}

    sampler.infer_relative_search_space = joint
    return sampler
