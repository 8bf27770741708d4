"""Short trainings of every kind compute what they computed when TRAINING_SEMANTICS was raised."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from golden_cases import FIXED, LEVELS, draw_cases, holds
from golden_curves import FILE, arithmetic, compute, differences
from trainings import TINY

from pipeline.settings.hyperparameters import Hyperparameters
from pipeline.study.identity import TRAINING_SEMANTICS
from pipeline.vae import optimizer

GOLDEN = json.loads(FILE.read_text())
RECORDED: list[dict[str, Any]] = GOLDEN["recorded"]


def check(entry: dict[str, Any], *, exact: bool) -> None:
    case = entry["case"]
    found = differences(case, entry["curve"], compute(case), exact=exact)
    assert not found, (
        f"{case} trains otherwise ({'; '.join(found)}): raise TRAINING_SEMANTICS in"
        " pipeline/study/identity.py and record anew by `make golden`, or find the mistake"
    )


def test_the_curves_are_those_of_the_present_semantics() -> None:
    assert GOLDEN["semantics"] == TRAINING_SEMANTICS, "record anew by `make golden`"


@pytest.mark.parametrize("number", range(len(RECORDED)))
def test_a_training_computes_what_was_recorded(number: int) -> None:
    check(RECORDED[number], exact=GOLDEN["arithmetic"] == arithmetic())


def test_every_hyperparameter_is_among_the_cases() -> None:
    """A new one, or a new value of an old one, must be recorded, too: `make golden`."""
    assert set(LEVELS) - {"likelihood", "sigma"} | set(FIXED) == set(Hyperparameters.model_fields)
    assert set(FIXED) & set(LEVELS) == set()
    assert set(TINY) <= set(FIXED) | set(LEVELS)
    assert set().union(*map(holds, draw_cases())) <= {
        held for entry in RECORDED for held in holds(entry["case"])
    }


def test_a_change_of_the_last_bits_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = next(e for e in RECORDED if e["case"]["optimizer"] == "adam")
    now = compute(entry["case"])
    constants = optimizer._RULES["adam"].constants
    monkeypatch.setitem(constants, "eps", 1.0001e-8)
    changed = compute(entry["case"])
    assert differences(entry["case"], now, changed, exact=True)
    monkeypatch.setitem(constants, "beta1", 0.8)
    with pytest.raises(AssertionError, match="raise TRAINING_SEMANTICS"):
        check(entry, exact=False)


@pytest.mark.slow
def test_another_arithmetic_comes_near() -> None:
    """torch's kernels for processors without vector instructions."""
    again = [sys.executable, "-m", "pytest", __file__, "-k", "computes_what_was_recorded"]
    done = subprocess.run(
        again, env={**os.environ, "ATEN_CPU_CAPABILITY": "default"}, cwd=Path(__file__).parents[2],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
