"""The virtual clock against people with watches: P workers that take the next part when free."""

from __future__ import annotations

import heapq
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from steady import STEADY

from pipeline.study.search.clock import Clock, Place


def by_hand(durations: list[int], workers: int) -> list[Place]:
    """Who starts when and after whom, by playing P workers in time."""
    free: list[tuple[int, int, int | None]] = [(0, -1, None)] * min(workers, len(durations))
    heapq.heapify(free)
    places = []
    for number, duration in enumerate(durations):
        time, _, before = heapq.heappop(free)
        places.append(Place(time, before))
        heapq.heappush(free, (time + duration, number, number))
    return places


@STEADY
@given(st.lists(st.integers(1, 6), max_size=40), st.integers(1, 6), st.integers(0, 9))
def test_places_are_those_of_real_workers_whoever_ends_first(
    durations: list[int], workers: int, seed: int
) -> None:
    draw, clock = random.Random(seed), Clock(workers)
    due, begun, done = by_hand(durations, workers), 0, dict[int, int]()
    running: dict[int, int] = {}  # how much of each is done
    starts: dict[int, int] = {}
    while begun < len(durations) or running:
        place = clock.next() if begun < len(durations) else None
        if place is not None:
            assert place == due[begun]
            clock.begin(begun, place)
            running[begun], starts[begun] = 0, place.starts
            clock.tell(begun, place.starts + 1, certain=False)
            begun += 1
            continue
        number = draw.choice(sorted(running))  # anyone may be the next to get on
        running[number] += 1
        if over := running[number] == durations[number]:
            done[number] = running.pop(number)
        now = done[number] if over else running[number] + 1
        clock.tell(number, starts[number] + now, certain=over)


@pytest.mark.parametrize("workers", [1, 3])
def test_the_first_parts_start_at_once_and_follow_nobody(workers: int) -> None:
    clock = Clock(workers)
    for number in range(workers):
        assert clock.next() == Place(0, None)
        clock.begin(number, Place(0, None))
    assert clock.next() is None


def test_of_two_that_end_at_once_the_lower_number_is_followed_first() -> None:
    clock = Clock(2)
    for number in (0, 1):
        clock.begin(number, Place(0, None))
    clock.tell(1, 5, certain=True)
    clock.tell(0, 5, certain=False)  # it may end at 5 as well, and then comes first
    assert clock.next() is None
    clock.tell(0, 6, certain=False)
    assert clock.next() == Place(5, 1)
