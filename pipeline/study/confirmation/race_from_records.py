"""The race of candidates as their records tell it: see `pipeline.study.confirmation.race`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pipeline.results.keys import KEPT
from pipeline.results.states import State
from pipeline.settings.space import Space
from pipeline.study.confirmation.race import Race, Rules, Run, replay
from pipeline.study.storage.rows import Part, Trial
from pipeline.vae.early_stopping import Played, play
from pipeline.vae.schedule import kl_warmup_end

Parameters = dict[str, Any]


def rules_of(space: Space, candidates: Sequence[Parameters]) -> Rules:
    """The race of candidates with these parameters.

    A rung is left out whose half lies within a KL warm-up: nothing could be said of the end.
    """
    retrain = space.retrain
    warm = max(kl_warmup_end(space.hyperparameters(each), retrain.epochs) for each in candidates)
    rungs = [rung for rung in retrain.looks if rung // 2 > warm]
    return Rules(retrain.epochs, retrain.seeds, rungs, len(space.search.objectives))


def race_of(
    space: Space, candidates: Sequence[Parameters], trials: Sequence[Sequence[Part]]
) -> Race:
    """The race so far, by the trials of each candidate; a trial's number is its seed's.

    Of parts the last of a trial counts.
    """
    runs = [
        {trial.trial: run_of(space, parameters, trial) for trial in each}
        for parameters, each in zip(candidates, trials, strict=True)
    ]
    return replay(rules_of(space, candidates), runs)


def run_of(space: Space, parameters: Parameters, trial: Part) -> Run:
    """A run as the race sees it."""
    played = _played(space, parameters, trial)
    values = [trial.curve[kept - 1]["nelbo_nats"] for kept in played.kept]
    failed = trial.state == State.FAILED
    if failed or trial.state == State.COMPLETE:
        # It fails where it has ended, as broken, or in the epoch after.
        late = failed and not (played.over and played.over[-1])
        return Run(values, len(values) + late, failed)
    return Run(values)


def used(space: Space, race: Race, trials: Sequence[Sequence[Trial]]) -> list[list[Trial]]:
    """The runs of each candidate as far as the race has used them: all that outputs hold.

    What there is beyond, of a race with other rungs or of before there were races, is left out.
    """
    return [
        [
            cut(space, trial, race.asked[index, trial.number])
            for trial in each
            if (index, trial.number) in race.asked
        ]
        for index, each in enumerate(trials)
    ]


def cut(space: Space, trial: Trial, until: int) -> Trial:
    """As much of a run as the race has used: paused at `until` unless it had ended by then."""
    parameters = trial.parameters or {}
    if run_of(space, parameters, trial).ended(until):
        return trial
    curve = trial.curve[:until]
    kept = _played(space, parameters, trial).kept[until - 1]
    result = {key: curve[kept - 1][key] for key in KEPT} | {"epochs": until, "best_epoch": kept}
    return replace(trial, state=State.PAUSED, curve=curve, result=result, reason=None)


def _played(space: Space, parameters: Parameters, trial: Part) -> Played:
    return play(space.hyperparameters(parameters), space.retrain.epochs, trial.curve)
