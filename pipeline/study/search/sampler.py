"""What Optuna is asked, and told: samplers, and settings and trials as it knows them."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

from pipeline.results.states import State
from pipeline.seeds import derive_seed
from pipeline.settings.hyperparameters import Choices, Domain, Value
from pipeline.settings.search_section import Search
from pipeline.study.search.plan import Known

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial


def new_study(search: Search) -> Study:
    """An empty one, in memory."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(directions=["minimize"] * len(search.objectives))


def proposal_seed(search: Search, number: int, attempt: int = 0) -> int:
    """Of the draws for a trial: of the search's seed and the trial's number alone."""
    return derive_seed(search.seed, "propose", number, *((attempt,) if attempt else ())) % 2**32


def new_sampler(name: str, search: Search, number: int, attempt: int = 0) -> BaseSampler:
    """One whose draws depend on the search's seed and the trial's number alone."""
    import optuna

    seed = proposal_seed(search, number, attempt)
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if name == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=search.startup_trials)
    if name == "cmaes":
        return optuna.samplers.CmaEsSampler(
            seed=seed, n_startup_trials=search.startup_trials, warn_independent_sampling=False
        )
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=search.startup_trials)


def ask(study: Study, sampler: BaseSampler, searched: dict[str, Domain]) -> dict[str, Value]:
    """Draws a setting, each hyperparameter as far as it exists."""
    study.sampler = _without_conditional(sampler, searched)
    trial = study.ask()
    chosen: dict[str, Value] = {}
    for name, domain in searched.items():
        if domain.active(chosen):
            chosen[name] = _suggest(trial, name, domain)
    return chosen


def _suggest(trial: Trial, name: str, domain: Domain) -> Value:
    known: Any = distribution(domain)
    if isinstance(domain, Choices):
        return json.loads(trial.suggest_categorical(name, known.choices))
    suggest = trial.suggest_int if domain.integer else trial.suggest_float
    return suggest(name, known.low, known.high, log=known.log, step=known.step)


def _without_conditional(sampler: BaseSampler, searched: dict[str, Domain]) -> BaseSampler:
    """The sampler, whose joint model leaves the conditional hyperparameters to independent draws.

    It would take one in as long as all finished trials have it, and draw it for a trial that then
    turns out not to have it: a value that this process would learn from, but not the others, who
    read the trial in the ledger.
    """
    infer = sampler.infer_relative_search_space

    def joint(study: Any, trial: Any) -> dict[str, Any]:
        return {name: d for name, d in infer(study, trial).items() if not searched[name].when}

    vars(sampler)["infer_relative_search_space"] = joint
    return sampler


def frozen(searched: dict[str, Domain], search: Search, trial: Known) -> FrozenTrial:
    """A trial as Optuna knows it; a paused one is pruned to it, with its value at its epoch."""
    import optuna

    state = optuna.trial.TrialState
    names = [name for name in searched if name in trial.parameters]
    result, values, intermediate = trial.result or {}, None, {}
    if trial.state == State.COMPLETE:
        values = [result[key] for key in search.objectives]
    elif trial.state in (State.PAUSED, State.PRUNED):
        intermediate = {trial.epochs: result["nelbo_nats"]}
    made = optuna.trial.create_trial(
        state={
            State.RUNNING: state.RUNNING,
            State.COMPLETE: state.COMPLETE,
            State.PAUSED: state.PRUNED,
            State.PRUNED: state.PRUNED,
            State.FAILED: state.FAIL,
        }[trial.state],
        values=values,
        intermediate_values=intermediate,
        params={name: encode(searched[name], trial.parameters[name]) for name in names},
        distributions={name: distribution(searched[name]) for name in names},
    )
    # A study copies what it is given, 0.1 ms each; what nobody changes need not be copied to its
    # depth for every proposal that sees it.
    vars(made)["__deepcopy__"] = lambda _: copy.copy(made)
    return made


def tpe_order(state: str, epochs: int, result: dict[str, Any]) -> tuple[bool, int, float]:
    """As Optuna's TPE orders trials: complete ones by their value, then the deepest."""
    whole = state == State.COMPLETE
    return not whole, 0 if whole else -epochs, result["nelbo_nats"]


def distribution(domain: Domain) -> BaseDistribution:
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


def encode(domain: Domain, value: Value) -> Any:
    return json.dumps(value) if isinstance(domain, Choices) else value


def completed(searched: dict[str, Domain], given: dict[str, Value]) -> dict[str, Value]:
    """A setting in which what is not given is at its centre, as far as it exists."""
    chosen: dict[str, Value] = {}
    for name, domain in searched.items():
        if domain.active(chosen):
            chosen[name] = given.get(name, domain.middle())
    return chosen


def centre(searched: dict[str, Domain]) -> dict[str, Value]:
    """The middle of every range and the first of all choices: trial 0 of a sampler that learns.

    A person writes a range around a guess and the usual choice first; the search begins there.
    """
    return completed(searched, {})
