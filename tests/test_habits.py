"""A storm of habits, in short; `tests/support/habits.py --minutes 60` is the long form."""

from __future__ import annotations

import pytest
from habits import storm


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")  # MLflow's own
@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")
def test_nothing_that_a_sweep_states_is_false_whatever_was_done_to_it() -> None:
    made = storm(60, seed=4, cycles=1)
    assert made.claims.falsehoods == []
    assert made.claims.checks > 30
