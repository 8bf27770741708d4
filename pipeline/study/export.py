"""A search as a real Optuna study, for its dashboard, its plots and whatever else reads one."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.results.keys import PARTS
from pipeline.results.states import State
from pipeline.seeds import digest
from pipeline.settings.hyperparameters import Choices, Domain, Value
from pipeline.settings.space import Space
from pipeline.study.search.sampler import distribution
from pipeline.study.storage.rows import Trial

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

OURS = "pipeline_study"  # of a study: this program's name of it
NUMBER = "number"  # of a trial: ours
MARK = "pipeline_record"  # of a trial: the digest of what was exported


@dataclass(frozen=True)
class Exported:
    """What `export` did: how many trials are there, and how many of them it has written."""

    study: str
    trials: int
    written: int


def export(
    space: Space, study: str, trials: Sequence[Trial], url: str, *, live: bool = False
) -> Exported:
    """Writes the trials that have ended into a study of that name in Optuna's storage `url`.

    While the search is `live` also those at work, and as such those that wait at a rung. Given
    again, it adds what is new. Optuna's finished trials cannot be changed: where one of ours went
    on since, the study is written anew. Raises UserError for a storage that does not answer and for
    a study of that name that was not exported.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    ours = {
        trial.number: _frozen(space, trial, live)
        for trial in trials
        if live or trial.state != State.RUNNING
    }
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        _check_holds_nothing_else(space, url)
        storage = optuna.storages.RDBStorage(url)
        try:
            written = _write(space, study, ours, storage)
        finally:
            storage.remove_session()
            storage.engine.dispose()
    except (SQLAlchemyError, ImportError, RuntimeError, optuna.exceptions.OptunaError) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(
            f"export {space.name}: Optuna's storage does not take it ({said}): give a URL of"
            " SQLAlchemy, such as sqlite:///optuna.db"
        ) from None
    return Exported(study, len(ours), written)


def _write(space: Space, study: str, ours: dict[int, FrozenTrial], storage: Any) -> int:
    """How many trials it has written."""
    import optuna

    target = _open(space, study, storage)
    found = target.get_trials(deepcopy=False)
    there = {int(each.user_attrs.get(NUMBER, -1)): each for each in found}
    go_on = all(_goes_on(each, ours.get(number)) for number, each in there.items())
    if len(there) < len(found) or not go_on:  # two have written at once, or others than these
        optuna.delete_study(study_name=study, storage=storage)
        target, there = _open(space, study, storage), {}
    moved = [_move(storage, each, ours[number]) for number, each in there.items() if number in ours]
    new = [number for number in ours if number not in there]
    for number in new:
        target.add_trial(ours[number])
    return len(new) + sum(moved)


def _goes_on(there: FrozenTrial, ours: FrozenTrial | None) -> bool:
    """Whether a trial of the storage can come to be as ours is."""
    if ours is None:
        return not there.state.is_finished()
    if there.state.is_finished():
        return bool(there.user_attrs.get(MARK) == ours.user_attrs[MARK])
    curve = ours.intermediate_values
    same = all(curve.get(step) == value for step, value in there.intermediate_values.items())
    return same and there.params == ours.params


def _move(storage: Any, there: FrozenTrial, ours: FrozenTrial) -> bool:
    """Brings a trial that is at work in the storage up to date; whether that changed it."""
    if there.user_attrs.get(MARK) == ours.user_attrs[MARK] and there.state == ours.state:
        return False
    for step, value in ours.intermediate_values.items():
        if step not in there.intermediate_values:
            storage.set_trial_intermediate_value(there._trial_id, step, value)
    for name, attribute in ours.user_attrs.items():
        if there.user_attrs.get(name) != attribute:
            storage.set_trial_user_attr(there._trial_id, name, attribute)
    if ours.state.is_finished():
        storage.set_trial_state_values(there._trial_id, ours.state, ours.values)
    return True


def _check_holds_nothing_else(space: Space, url: str) -> None:
    import sqlalchemy as sa

    from pipeline.study.optuna_storage import check_holds_nothing_else

    try:
        sa.make_url(url)
    except ValueError:  # it quotes what may be a password
        raise UserError(
            f"export {space.name}: Optuna's storage does not take it (its port is no number): give"
            " a URL of SQLAlchemy, such as sqlite:///optuna.db"
        ) from None
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    try:
        with engine.connect() as db:
            check_holds_nothing_else(db)
    except UserError as error:
        raise UserError(f"export {space.name}: {error}") from None


def _open(space: Space, study: str, storage: Any) -> optuna.Study:
    import optuna

    objectives = space.search.objectives
    target = optuna.create_study(
        storage=storage,
        study_name=study,
        directions=["minimize"] * len(objectives),
        load_if_exists=True,
    )
    new = OURS not in target.user_attrs and not target.get_trials(deepcopy=False)
    if not new and target.user_attrs.get(OURS) != study:
        raise UserError(
            f"export {space.name}: the storage has a study {study} that was not exported: choose"
            " another storage"
        )
    if new:  # or an export was killed here
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            target.set_metric_names([*objectives])
        target.set_user_attr(OURS, study)
        target.set_user_attr("sweep", space.name)
    return target


def _frozen(space: Space, trial: Trial, live: bool) -> FrozenTrial:
    """A paused trial is one that was pruned at its rung: its NELBO there is its last value. As long
    as it may go on, `live`, it is one at work."""
    import optuna

    objectives = space.search.objectives
    result = trial.result or {}
    chosen = trial.parameters or {}
    searched = {name: space.searched[name] for name in chosen if name in space.searched}
    curve = {record["epoch"]: record[objectives[0]] for record in trial.curve}
    two = len(objectives) == 2  # Optuna has no intermediate values of two objectives
    states = optuna.trial.TrialState
    at_work = trial.state == State.RUNNING or (live and trial.state == State.PAUSED)
    state = {
        State.COMPLETE: states.COMPLETE,
        State.FAILED: states.FAIL,
    }.get(trial.state, states.RUNNING if at_work else states.PRUNED)
    attributes = {
        NUMBER: trial.number,
        "state": str(trial.state),
        **{name: result[name] for name in (*PARTS, "best_epoch", "weights") if name in result},
        **({"reason": trial.reason.splitlines()[0]} if trial.reason else {}),
    }
    made = optuna.trial.create_trial(
        state=state,
        values=[result[name] for name in objectives] if trial.result and not at_work else None,
        params={name: _shown(chosen[name]) for name, domain in searched.items()},
        distributions={name: _distribution(domain) for name, domain in searched.items()},
        intermediate_values={} if two else curve,
        user_attrs={**attributes, MARK: digest([attributes, chosen, curve])},
    )
    made.datetime_start = _time(trial.started_ms)
    if not at_work:
        made.datetime_complete = _time(trial.finished_ms or trial.started_ms)
    return made


def _distribution(domain: Domain) -> BaseDistribution:
    import optuna

    if isinstance(domain, Choices):
        return optuna.distributions.CategoricalDistribution(
            [_shown(choice) for choice in domain.choices]
        )
    return distribution(domain)


def _shown(value: Value) -> Any:
    """Optuna stores no lists."""
    return json.dumps(value) if isinstance(value, list) else value


def _time(milliseconds: int) -> datetime:
    """Optuna's are local and naive."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).astimezone().replace(tzinfo=None)
