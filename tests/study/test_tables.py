"""Tables of a study: equal studies give equal bytes, and every value can be read back."""

from __future__ import annotations

import io
import itertools
import random
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import studies

from pipeline.study.storage.ledger import Trial
from pipeline.study.tables import (
    CURVE,
    cell,
    curves_table,
    pareto_front,
    trials_table,
)

SEARCHED = ["lr", "hidden", "filters", "patience", "optimizer"]


def record(epoch: int, **times: Any) -> dict[str, Any]:
    values = {name: 100.1 / (i + epoch) for i, name in enumerate(CURVE)}
    return {"epoch": epoch, **values, "seconds": 1.5, "ended_ms": 1_700_000_000_000, **times}


def trial(number: int, **changes: Any) -> Trial:
    known: dict[str, Any] = {
        "parameters": {"lr": 0.1 + 0.2, "hidden": [8, 4], "filters": 32, "patience": None,
                       "optimizer": "adam"},
        "curve": [record(1), record(2)],
        "result": {"nelbo_nats": 1 / 3, "recon_nats": 0.25, "kl_nats": 1 / 12, "best_epoch": 2},
        "meta": {"host": "a"},
    }  # fmt: skip
    return studies.trial(number, 1 / 3, **{**known, **changes})


FAILED = trial(
    1,
    state="failed",
    parameters={"lr": 1e-05, "hidden": [8], "optimizer": "sgd"},
    curve=[],
    result=None,
    reason="out of memory: 5, or\n a traceback",
)


def csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False)


class TestTrials:
    def test_the_bytes(self) -> None:
        assert csv(trials_table([trial(0), FAILED], SEARCHED)).splitlines() == [
            "number,state,nelbo_nats,recon_nats,kl_nats,epochs,best_epoch,reason,lr,hidden,filters,"
            "patience,optimizer",
            "0,complete,0.3333333333333333,0.25,0.08333333333333333,2,2,,0.30000000000000004,"
            '"[8, 4]",32,,adam',
            '1,failed,,,,0,,"out of memory: 5, or",1e-05,[8],,,sgd',
        ]

    def test_hosts_times_and_owners_leave_no_trace(self) -> None:
        elsewhere = [
            replace(t, study="x-2", meta={"host": "b"}, owner="b/1", expires=9.0, strikes=2,
                    started_ms=7, finished_ms=None)
            for t in (trial(0), FAILED)
        ]  # fmt: skip
        assert csv(trials_table(elsewhere, SEARCHED)) == csv(
            trials_table([trial(0), FAILED], SEARCHED)
        )

    def test_values_are_read_back_to_the_last_digit(self) -> None:
        table = pd.read_csv(io.StringIO(csv(trials_table([trial(0), FAILED], SEARCHED))))
        assert list(table["lr"]) == [0.1 + 0.2, 1e-05]
        assert table["nelbo_nats"][0] == 1 / 3

    def test_a_trial_that_never_had_parameters(self) -> None:
        row = csv(trials_table([replace(FAILED, parameters=None, reason=None)], SEARCHED))
        assert row.splitlines()[1] == "1,failed,,,,0,,,,,,,"

    def test_no_trials_give_the_header(self) -> None:
        assert csv(trials_table([], ["lr"])).splitlines() == [
            "number,state,nelbo_nats,recon_nats,kl_nats,epochs,best_epoch,reason,lr"
        ]


class TestCurves:
    def test_a_row_a_trial_and_epoch_without_times(self) -> None:
        table = curves_table([trial(0), FAILED, trial(2, curve=[record(1)])])
        assert list(table.columns) == ["number", "epoch", *CURVE]
        assert list(zip(table["number"], table["epoch"], strict=True)) == [(0, 1), (0, 2), (2, 1)]

    def test_the_speed_of_the_machine_leaves_no_trace(self) -> None:
        slow = [record(1, seconds=99.0, core_seconds=98.0, ended_ms=5), record(2, seconds=97.0)]
        assert csv(curves_table([trial(0, curve=slow)])) == csv(curves_table([trial(0)]))

    def test_no_epochs_give_the_header(self) -> None:
        assert csv(curves_table([FAILED])).strip() == ",".join(["number", "epoch", *CURVE])


@pytest.mark.parametrize(
    ("value", "text"), [([8, 4], "[8, 4]"), (None, None), (0.1, 0.1), ("a", "a"), (True, True)]
)
def test_cell(value: Any, text: Any) -> None:
    assert cell(value) == text


def points(*pairs: tuple[float, float]) -> list[Trial]:
    return [
        trial(n, result={"kl_nats": kl, "recon_nats": recon}) for n, (kl, recon) in enumerate(pairs)
    ]


class TestParetoFront:
    OBJECTIVES = ("kl_nats", "recon_nats")

    def test_a_trial_that_is_worse_in_both_is_not_on_it(self) -> None:
        assert pareto_front(points((1, 3), (2, 2), (3, 3), (3, 1)), self.OBJECTIVES) == [0, 1, 3]

    def test_equal_in_one_and_worse_in_the_other_is_not_on_it(self) -> None:
        assert pareto_front(points((1, 1), (1, 2), (2, 1)), self.OBJECTIVES) == [0]

    def test_equals_are_all_on_it(self) -> None:
        assert pareto_front(points((1, 2), (1, 2), (2, 1)), self.OBJECTIVES) == [0, 1, 2]

    def test_trials_without_a_result_are_not_on_it(self) -> None:
        assert pareto_front([FAILED], self.OBJECTIVES) == []

    def test_one_objective_has_its_minimum(self) -> None:
        assert pareto_front(points((2, 0), (1, 0), (3, 0)), ("kl_nats",)) == [1]

    def test_brute_force(self) -> None:
        """A point is off the front if and only if some other one lies below and left of it."""
        draw = random.Random(0)
        for _ in range(50):
            pairs = [(draw.randint(0, 6), draw.randint(0, 6)) for _ in range(draw.randint(1, 12))]
            off = {
                i
                for (i, (x, y)), (u, v) in itertools.product(enumerate(pairs), pairs)
                if u <= x and v <= y and (u < x or v < y)
            }
            front = pareto_front(points(*pairs), self.OBJECTIVES)
            assert front == [i for i in range(len(pairs)) if i not in off]
