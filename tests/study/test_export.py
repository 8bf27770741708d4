"""A search as Optuna has it: its own functions read it, and say what ours say."""

from __future__ import annotations

import gc
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from studies import trial

from pipeline.errors import UserError
from pipeline.settings.space import Space, parse_space
from pipeline.study.export import Exported, export
from pipeline.study.storage.ledger import Ledger
from pipeline.study.storage.rows import Trial

STUDY = "tiny-0123456789ab"


@pytest.fixture
def space() -> Space:
    raw: dict[str, Any] = {
        "data": {"name": "digits"},
        "parameters": {
            "lr": {"low": 1e-4, "high": 1e-2, "log": True},
            "latent_dim": {"low": 8, "high": 32, "step": 8},
            "hidden": {"choices": [[64, 32], [16]]},
            "optimizer": {"choices": ["adam", "adamw"]},
            "weight_decay": {"low": 1e-3, "high": 1e-2, "when": {"optimizer": "adamw"}},
        },
    }
    return parse_space("tiny", raw, "tiny.yaml")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/optuna.db"


def some(number: int, state: str, nelbo: float | None, **changes: Any) -> Trial:
    parameters = {"lr": 1e-3 * (number + 1), "latent_dim": 8, "hidden": [16], "optimizer": "adam"}
    curve = [{"epoch": epoch, "nelbo_nats": 30.0 - epoch} for epoch in (1, 2)]
    result = None if nelbo is None else {"nelbo_nats": nelbo, "kl_nats": 3.0, "best_epoch": 2}
    reason = "diverged in epoch 3" if state == "failed" else None
    fields = {"parameters": parameters, "curve": curve, "result": result, "reason": reason}
    return trial(number, **{"state": state, **fields, **changes})


def test_optuna_reads_what_was_exported(space: Space, url: str) -> None:
    trials = [
        some(0, "complete", 25.0),
        some(1, "paused", 28.0),
        some(2, "failed", None),
        some(3, "running", None),
        some(4, "complete", 24.0, parameters={"lr": 5e-3, "latent_dim": 16, "hidden": [64, 32],
                                              "optimizer": "adamw", "weight_decay": 2e-3}),
    ]  # fmt: skip
    assert export(space, STUDY, trials, url) == Exported(STUDY, 4, 4)
    study = optuna.load_study(study_name=STUDY, storage=url)
    assert [each.state.name for each in study.trials] == ["COMPLETE", "PRUNED", "FAIL", "COMPLETE"]
    assert [each.user_attrs["number"] for each in study.trials] == [0, 1, 2, 4]
    assert study.best_value == 24.0
    assert study.best_params["hidden"] == "[64, 32]"
    assert study.best_params["weight_decay"] == 2e-3
    assert study.trials[1].intermediate_values == {1: 29.0, 2: 28.0}
    assert study.trials[1].user_attrs["state"] == "paused"
    assert study.trials[2].user_attrs["reason"] == "diverged in epoch 3"
    assert study.trials[0].distributions["lr"] == optuna.distributions.FloatDistribution(
        1e-4, 1e-2, log=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few trials
        assert "lr" in optuna.importance.get_param_importances(study)


def test_again_it_adds_what_is_new_and_writes_anew_what_went_on(space: Space, url: str) -> None:
    paused = [some(0, "complete", 25.0), some(1, "paused", 28.0)]
    assert export(space, STUDY, paused, url).written == 2
    assert export(space, STUDY, paused, url).written == 0
    more = [*paused, some(2, "complete", 27.0)]
    assert export(space, STUDY, more, url) == Exported(STUDY, 3, 1)
    more[1] = some(1, "complete", 23.0)
    assert export(space, STUDY, more, url) == Exported(STUDY, 3, 3)
    study = optuna.load_study(study_name=STUDY, storage=url)
    assert [each.value for each in study.trials] == [25.0, 23.0, 27.0]


@pytest.mark.parametrize("mine", [True, False])
def test_it_leaves_no_connection_open(mine: bool, space: Space, tmp_path: Path) -> None:
    """Whoever follows a search exports at each look."""
    file = tmp_path / "optuna.db"
    url = f"sqlite:///{file}"
    if not mine:
        storage = optuna.storages.RDBStorage(url)
        optuna.create_study(study_name=STUDY, storage=storage).add_trial(
            optuna.trial.create_trial(value=1.0)
        )
        storage.remove_session()
        storage.engine.dispose()
    gc.disable()  # which would close it at some time
    try:
        with nullcontext() if mine else pytest.raises(UserError, match="was not exported"):
            export(space, STUDY, [some(0, "complete", 25.0)], url)
        assert str(file) not in [each.path for each in psutil.Process().open_files()]
    finally:
        gc.enable()


def test_a_study_that_is_somebody_elses_stays(space: Space, url: str) -> None:
    optuna.create_study(study_name=STUDY, storage=url).add_trial(
        optuna.trial.create_trial(value=1.0)
    )
    with pytest.raises(UserError, match="that was not exported: choose another storage"):
        export(space, STUDY, [some(0, "complete", 25.0)], url)
    assert optuna.load_study(study_name=STUDY, storage=url).best_value == 1.0


@pytest.mark.parametrize(
    "wrong",
    [
        "nonsense",
        "sqlite:////nowhere/at/all/optuna.db",
        "",
        "mysql://h/d",
        "postgresql://u@h:key/d",
    ],
)
def test_a_storage_that_is_none_is_one_line(wrong: str, space: Space) -> None:
    with pytest.raises(UserError, match="Optuna's storage does not take it") as raised:
        export(space, STUDY, [some(0, "complete", 25.0)], wrong)
    assert "\n" not in str(raised.value)
    assert "key" not in str(raised.value)


def test_an_export_that_was_killed_at_its_start_goes_on(space: Space, url: str) -> None:
    optuna.create_study(study_name=STUDY, storage=url)  # and nothing more
    assert export(space, STUDY, [some(0, "complete", 25.0)], url) == Exported(STUDY, 1, 1)
    assert export(space, STUDY, [some(0, "complete", 25.0)], url) == Exported(STUDY, 1, 0)


def test_a_database_of_something_else_is_left_alone(space: Space, tmp_path: Path) -> None:
    """Such as the ledger, whose tables have names like Optuna's."""
    file = tmp_path / "ledger.db"
    ledger = Ledger(f"sqlite:///{file}")
    ledger.open_study(STUDY, "tiny", "search", {})
    ledger.close()
    before = file.read_bytes()
    with pytest.raises(UserError, match="holds tables that are not Optuna's"):
        export(space, STUDY, [some(0, "complete", 25.0)], f"sqlite:///{file}")
    assert file.read_bytes() == before


def test_while_a_search_goes_on_its_study_grows_in_place(space: Space, url: str) -> None:
    """Whoever looks at it in a dashboard keeps looking at the same one."""
    curve = [{"epoch": epoch, "nelbo_nats": 30.0 - epoch} for epoch in (1, 2, 3)]
    trials = [some(0, "running", None, curve=curve[:1]), some(1, "paused", 28.0, curve=curve[:2])]
    assert export(space, STUDY, trials, url, live=True) == Exported(STUDY, 2, 2)
    assert export(space, STUDY, trials, url, live=True).written == 0
    study = optuna.load_study(study_name=STUDY, storage=url)
    assert [each.state.name for each in study.trials] == ["RUNNING", "RUNNING"]
    assert study.trials[0].intermediate_values == {1: 29.0}
    assert study.trials[1].user_attrs["state"] == "paused"

    trials = [some(0, "running", None, curve=curve), some(1, "complete", 27.0, curve=curve)]
    trials.append(some(2, "failed", None, curve=[]))
    assert export(space, STUDY, trials, url, live=True) == Exported(STUDY, 3, 3)
    trials[0] = some(0, "paused", 27.0, curve=curve)
    assert export(space, STUDY, trials, url, live=True).written == 1
    assert export(space, STUDY, trials, url) == Exported(STUDY, 3, 1)  # the search is over
    assert export(space, STUDY, trials, url).written == 0
    again = optuna.load_study(study_name=STUDY, storage=url)
    assert again._study_id == study._study_id
    assert [each.state.name for each in again.trials] == ["PRUNED", "COMPLETE", "FAIL"]
    assert [each.value for each in again.trials] == [27.0, 27.0, None]
    assert again.trials[0].intermediate_values == {1: 29.0, 2: 28.0, 3: 27.0}
    assert again.trials[1].user_attrs["state"] == "complete"


def test_a_trial_that_began_anew_or_was_written_twice_is_written_anew(
    space: Space, url: str
) -> None:
    export(space, STUDY, [some(0, "running", None)], url, live=True)
    other = some(0, "running", None, curve=[{"epoch": 1, "nelbo_nats": 20.0}])
    assert export(space, STUDY, [other], url, live=True).written == 1
    study = optuna.load_study(study_name=STUDY, storage=url)
    assert [each.intermediate_values for each in study.trials] == [{1: 20.0}]
    study.add_trial(study.trials[0])  # as by two that export at once
    assert export(space, STUDY, [other], url, live=True).written == 1
    assert len(optuna.load_study(study_name=STUDY, storage=url).trials) == 1
