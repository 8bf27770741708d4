"""Deadlines at random over a real sweep; `tests/support/deadlines.py` gives it many more."""

from __future__ import annotations

from pathlib import Path

import pytest
from deadlines import DIGITS, rounds


@pytest.mark.slow
def test_a_deadline_leaves_an_answer_and_changes_nothing(tmp_path: Path) -> None:
    (ended,) = rounds(tmp_path, DIGITS, 1, (25.0, 40.0))
    assert ended.code in (0, 130)
