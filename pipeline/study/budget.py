"""How many trials a study has when its budget is one of epochs too."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.study.identity import Study


def admitted(study: Study, used: Sequence[int | None]) -> int:
    """How many trials surely belong to a study: the numbers below it.

    Trial n does if the epochs of all earlier trials and a whole trial fit into the total: a pure
    function of the trials in their order. `used` holds the epochs of trial 0, 1, …; a trial that
    is not finished (None) counts as a whole one, so what is admitted once stays so.
    """
    if study.total_epochs is None:
        return study.budget
    spent = 0
    for number in range(study.budget):
        if spent + study.epochs > study.total_epochs:
            return number
        known = used[number] if number < len(used) else None
        spent += study.epochs if known is None else known
    return study.budget


def most_trials(studies: Sequence[Study]) -> str:
    """The budget of some studies in trials, as far as it is known beforehand."""
    at_most = "at most " if any(study.total_epochs for study in studies) else ""
    return f"{at_most}{sum(study.budget for study in studies)}"
