"""Who goes on: promotion against the rule said in one line, and by examples."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from steady import STEADY

from pipeline.study.search.ladder import Ladder

RUNGS = [1, 2, 4, 8]


def test_the_first_goes_on_to_the_end_at_once() -> None:
    ladder = Ladder(RUNGS, 2)
    for rung, above in pairwise(RUNGS):
        ladder.add(0, rung, 9.0, ended=False)
        assert ladder.promote() == (0, above)
        ladder.leave(0, above)
        assert ladder.promote() is None


def test_one_in_so_many_goes_on_and_the_highest_rung_first() -> None:
    ladder = Ladder([1, 3, 9], 3)
    for trial in range(6):
        ladder.add(trial, 1, float(trial), ended=False)
    assert ladder.promote() == (0, 3)
    ladder.leave(0, 3)
    assert ladder.promote() == (1, 3)  # two of six
    ladder.add(0, 3, 0.0, ended=False)
    assert ladder.promote() == (0, 9)
    ladder.leave(0, 9)
    ladder.leave(1, 3)
    assert ladder.promote() is None
    ladder.add(6, 1, 6.0, ended=False)
    ladder.add(7, 1, 7.0, ended=False)
    assert ladder.promote() is None  # the best two of eight have left, and are not asked back
    ladder.add(8, 1, 0.5, ended=False)
    assert ladder.promote() == (8, 3)


def test_equals_go_on_in_the_order_of_their_numbers() -> None:
    ladder = Ladder([1, 2], 2)
    for trial in (3, 1, 2):
        ladder.add(trial, 1, 5.0, ended=False)
    assert ladder.promote() == (1, 2)


def test_one_that_ended_by_itself_counts_on_all_higher_rungs_and_never_goes_on() -> None:
    ladder = Ladder(RUNGS, 2)
    ladder.add(0, 2, 1.0, ended=False)
    ladder.leave(0, 4)
    ladder.add(1, 3, 0.5, ended=True)  # between rungs
    ladder.add(0, 4, 1.0, ended=False)
    assert ladder.promote() is None  # of the two at 4 the better one has ended
    ladder.add(2, 4, 0.1, ended=False)
    ladder.add(3, 4, 9.0, ended=False)
    assert ladder.promote() == (2, 8)


def test_a_trial_begins_with_the_first_rung_that_says_something() -> None:
    ladder = Ladder(RUNGS, 2)
    assert [ladder.first(epoch) for epoch in (1, 2, 3, 5, 8, 9)] == [1, 2, 4, 8, 8, 8]


@STEADY
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=60), st.integers(2, 4))
def test_whoever_goes_on_is_the_best_of_those_who_may(
    moves: list[tuple[int, int]], factor: int
) -> None:
    """Against the rule, spelled out: of the highest rung on which one of the best n/factor (at
    least one) has not left, the best of those."""
    ladder = Ladder(RUNGS, factor)
    reached: dict[int, dict[int, float]] = {rung: {} for rung in RUNGS}
    left: dict[int, set[int]] = {rung: set() for rung in RUNGS}
    count = 0
    for _, value in moves:
        due = None
        for rung, above in reversed(list(pairwise(RUNGS))):
            order = sorted(reached[rung], key=lambda t: (reached[rung][t], t))
            may = [t for t in order[: max(1, len(order) // factor)] if t not in left[rung]]
            if may:
                due = (may[0], above)
                break
        assert ladder.promote() == due
        if due is None:
            trial, rung, count = count, RUNGS[0], count + 1
        else:
            trial, rung = due
            left[RUNGS[RUNGS.index(rung) - 1]].add(trial)
            ladder.leave(trial, rung)
        reached[rung][trial] = float(value)
        ladder.add(trial, rung, float(value), ended=False)
