"""Deadlines as people write them."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from pipeline.settings import deadline
from pipeline.settings.deadline import deadline_after, deadline_at, shown

NOON = datetime(2030, 3, 15, 12, 0).astimezone()


@pytest.fixture(autouse=True)
def _at_noon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadline, "now", lambda: NOON)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("45s", 45), ("90m", 5400), ("2h", 7200), ("1h30m", 5400), ("1d1s", 86401)],
)
def test_durations(text: str, seconds: int) -> None:
    assert deadline_after(text) - NOON == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "2", "2 h", "h", "1.5h", "-1h", "0s", "30m1h", "2hours", "²h", "9999d", "9" * 5000]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must be a duration such as 90m, 2h or 1h30m, at most"):
        deadline_after(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("13:00", "13:00"),
        ("9:05", "2030-03-16 09:05"),
        ("11:30", "11:30"),  # just over, and not tomorrow's
        ("11:00", "2030-03-16 11:00"),
        ("2030-03-15T07:00", "07:00"),
        ("2031-01-01 00:00:30", "2031-01-01 00:00"),
    ],
)
def test_times(text: str, expected: str) -> None:
    assert shown(deadline_at(text)) == expected


@pytest.mark.parametrize(
    "text", ["", "24:00", "7", "7:5", "07:00pm", "tomorrow", "2030-02-30T07:00"]
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must be a time such as 07:00 or 2030-12-31T07:00"):
        deadline_at(text)


def test_a_time_with_an_offset_is_that_moment() -> None:
    assert deadline_at("2030-03-15T12:00+00:00").timestamp() == 1899806400
