"""The table of trials as numbers that can be drawn and learned from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.files import read_table
from pipeline.results.keys import PARTS
from pipeline.results.states import State
from pipeline.settings.hyperparameters import Choices, Domain, Range, Value

Domains = dict[str, Domain]


def ascending(searched: Domains) -> Domains:
    """The domains as figures show them: choices among numbers ascend.

    In the file the one to try first comes first.
    """
    return {
        name: Choices(choices=sorted(domain.choices), when=domain.when)
        if isinstance(domain, Choices) and numeric(domain)
        else domain
        for name, domain in searched.items()
    }


def numeric(domain: Choices) -> bool:
    """Whether all choices are numbers."""
    return all(isinstance(c, int | float) and not isinstance(c, bool) for c in domain.choices)


def read_trials(path: Path, searched: Domains) -> pd.DataFrame:
    """trials.csv with a numeric column for every searched hyperparameter.

    A range keeps its values, a choice becomes its index in `choices`, and a conditional
    hyperparameter is NaN where it does not exist (unless null, which is written alike, is one
    of its choices).
    """
    texts = dict.fromkeys(searched, str)
    table = read_table(path, dtype=texts, keep_default_na=False, na_values=[""])
    for name, domain in searched.items():
        table[name] = table[name].map(lambda text, d=domain: _number(text, d)).astype(float)
    for name in (*PARTS, "epochs", "best_epoch"):
        table[name] = table[name].astype(float)
    return table


def _number(text: str | float, domain: Domain) -> float:
    if isinstance(domain, Range):
        return float(text)
    return next((float(i) for i, c in enumerate(domain.choices) if _stands_for(text, c)), np.nan)


def _stands_for(text: str | float, choice: Value) -> bool:
    """Whether a cell holds the choice; numbers may be written as 64 or 64.0, null is empty."""
    if not isinstance(text, str):
        return choice is None
    if isinstance(choice, int | float) and not isinstance(choice, bool):
        return float(text) == choice
    return text == (json.dumps(choice) if isinstance(choice, list) else str(choice))


def finished(trials: pd.DataFrame) -> pd.DataFrame:
    """Complete, paused and pruned trials: those with a validation NELBO."""
    measured = trials["state"].isin([State.COMPLETE, State.PAUSED, State.PRUNED])
    return trials[measured & trials["nelbo_nats"].notna()]


def ceiling(values: pd.Series) -> float:
    """An upper limit for an axis of NELBOs that a few diverged ones cannot stretch."""
    low, high = values.min(), values.max()
    robust = low + 3 * (values.quantile(0.75) - low)
    return float(robust if low < robust < high else high)


def show_value(value: Value) -> str:
    """A hyperparameter's value for people."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return value if isinstance(value, str) else json.dumps(value)


def show_position(position: float, domain: Domain) -> str:
    """The value that a cell of `read_trials` stands for."""
    if pd.isna(position):
        return "–"
    if isinstance(domain, Choices):
        return show_value(domain.choices[int(position)])
    return show_value(int(position) if domain.integer else position)


def show_domain(domain: Domain) -> str:
    """A domain for people, with its condition."""
    if isinstance(domain, Choices):
        text = ", ".join(show_value(choice) for choice in domain.choices)
    else:
        extras = [", log"] if domain.log else [f", step {domain.step:g}"] if domain.step else []
        text = f"{domain.low:g} … {domain.high:g}{''.join(extras)}"
    when = [f"{name} = {show_value(wanted)}" for name, wanted in domain.when.items()]
    return f"{text} (when {', '.join(when)})" if when else text


def scaled(values: pd.Series, domain: Domain) -> pd.Series:
    """Positions in [0, 1] along the domain, on the scale that the search draws on."""
    if isinstance(domain, Choices):
        return values / max(1, len(domain.choices) - 1)
    if domain.log:
        return np.log(values / domain.low) / np.log(domain.high / domain.low)
    return (values - domain.low) / (domain.high - domain.low)
