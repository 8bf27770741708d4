"""Until when to work, as people write it: a duration from now, a time of day or a date and time."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

DURATION = re.compile(r"(?=.)(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.ASCII)
TIME_OF_DAY = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)", re.ASCII)
LONGEST = timedelta(days=366)
# A time of day that has just passed is over: the next stage of the same `dvc repro` must not take
# it for tomorrow's.
JUST_PASSED = timedelta(hours=1)


def now() -> datetime:
    """The local time with its offset, so that clocks may change before the deadline."""
    return datetime.now().astimezone()


def deadline_after(text: str) -> datetime:
    """The time after a duration such as 90m or 1h30m. Raises ValueError."""
    parts = DURATION.fullmatch(text)
    if parts:
        days, hours, minutes, seconds = (int((part or "0")[:12]) for part in parts.groups())
        total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
        if 0 < total <= LONGEST.total_seconds():
            return now() + timedelta(seconds=total)
    raise ValueError(
        f"must be a duration such as 90m, 2h or 1h30m, at most {LONGEST.days}d, but got {text!r}"
    )


def deadline_at(text: str) -> datetime:
    """The next such time of day, or that date and time. Raises ValueError."""
    if time_of_day := TIME_OF_DAY.fullmatch(text):
        return _next(int(time_of_day[1]), int(time_of_day[2]))
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise ValueError(
            f"must be a time such as 07:00 or 2030-12-31T07:00, but got {text!r}"
        ) from None


def shown(deadline: datetime) -> str:
    """A deadline in a message: the date too unless it is today's."""
    return f"{deadline:%H:%M}" if deadline.date() == now().date() else f"{deadline:%Y-%m-%d %H:%M}"


def _next(hour: int, minute: int) -> datetime:
    present = now()
    wall = present.replace(hour=hour, minute=minute, second=0, microsecond=0, tzinfo=None)
    today = wall.astimezone()
    if today + JUST_PASSED > present:
        return today
    return (wall + timedelta(days=1)).astimezone()
