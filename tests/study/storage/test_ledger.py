"""The ledger on both storages: who works on what, and what is remembered."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from desk import PARAMETERS, STUDY, Desk, curve, write
from studies import next_lease, next_trial

from pipeline.study.storage.claim import Claimant
from pipeline.study.storage.ledger import Ledger


class TestClaims:
    def test_numbers_are_given_in_order(self, desk: Desk) -> None:
        assert [desk.must_claim(owner).number for owner in "abcd"] == [0, 1, 2, 3]

    def test_a_part_is_begun_once(self, desk: Desk) -> None:
        plan = next_trial(desk.ledger, STUDY, PARAMETERS, until=3)
        leases = [desk.ledger.begin(STUDY, plan, Claimant(owner)) for owner in "ab"]
        assert [lease and lease.number for lease in leases] == [0, None]
        assert desk.ledger.owners() == ["a"]

    def test_a_smaller_budget_leaves_later_trials_alone(
        self, desk: Desk, expire: Callable[[], None]
    ) -> None:
        expire()
        for _ in range(2):
            desk.complete(desk.must_claim())
        desk.must_claim()  # trial 2 is abandoned
        assert desk.claim(budget=2) is None

    def test_studies_do_not_touch_each_other(self, desk: Desk) -> None:
        desk.ledger.open_study("other", "tiny", "candidate", {})
        desk.must_claim("a")
        lease = next_lease(desk.ledger, "other", owner="b")
        assert lease
        assert (lease.study, lease.number) == ("other", 0)
        desk.complete(lease)
        assert desk.row(0).state == "running"
        assert desk.ledger.owners() == ["a"]
        assert desk.ledger.owners("other") == []

    def test_a_claim_that_fails_half_way_leaves_nothing(self, desk: Desk) -> None:
        with pytest.raises(TypeError):
            next_lease(desk.ledger, STUDY, meta={"x": object()})
        assert desk.ledger.trials(STUDY) == []
        assert desk.must_claim().number == 0  # and the write lock is free


class TestRecords:
    def test_a_trial_is_read_back_to_the_last_digit(self, desk: Desk) -> None:
        lease = desk.must_claim("worker/1")
        desk.ledger.report(lease, curve(1))
        running = desk.row()
        assert (running.state, running.owner, running.meta) == (
            "running",
            "worker/1",
            {"host": "worker/1"},
        )
        assert running.parameters == PARAMETERS
        desk.ledger.finish(lease, "failed", curve(2), None, "out of memory: 5 GiB\ntraceback ²")
        ended = desk.row()
        assert (ended.state, ended.owner, ended.result) == ("failed", None, None)
        assert (ended.parameters, ended.curve) == (PARAMETERS, curve(2))
        assert ended.reason == "out of memory: 5 GiB\ntraceback ²"
        assert ended.finished_ms is not None
        assert ended.finished_ms >= ended.started_ms > 1_600_000_000_000

    def test_some_trials_in_order(self, desk: Desk) -> None:
        for owner in "abcd":
            desk.must_claim(owner)
        some = (None, [1, 2], [3], [])
        numbers = [[t.number for t in desk.ledger.trials(STUDY, among)] for among in some]
        assert numbers == [[0, 1, 2, 3], [1, 2], [3], []]

    def test_an_opened_study_stays_as_it_is(self, desk: Desk) -> None:
        desk.ledger.open_study(STUDY, "tiny", "search", {"a": 2})
        desk.ledger.open_study("tiny-2", "tiny", "search", {"a": 3})
        assert desk.ledger.studies("tiny", "search") == {STUDY: {"a": 1}, "tiny-2": {"a": 3}}
        assert desk.ledger.studies("tiny", "candidate") == {}
        assert desk.ledger.studies("other", "search") == {}

    def test_what_one_process_writes_another_reads(self, desk: Desk, storage: str) -> None:
        desk.must_claim()
        other = Ledger(storage)
        assert len(other.trials(STUDY)) == 1
        other.close()


class TestTakeover:
    def test_an_abandoned_trial_goes_on_under_its_number(
        self, desk: Desk, expire: Callable[[], None]
    ) -> None:
        expire()
        lease = desk.must_claim("a")
        desk.ledger.report(lease, curve(3))
        expire()
        taken = desk.must_claim("b")
        assert (taken.number, taken.parameters) == (0, PARAMETERS)
        assert taken.token > lease.token
        assert (desk.row().curve, desk.row().owner) == (curve(3), "b")
        assert desk.row().meta == {"host": "b"}
        assert desk.must_claim("c").number == 1  # b's lease lasts

    def test_the_oldest_goes_first(self, desk: Desk, expire: Callable[[], None]) -> None:
        for owner in "abc":
            desk.must_claim(owner)
        for owner in "cba":
            desk.ledger.release(owner, blameless=True)
        assert [desk.must_claim("d").number for _ in range(4)] == [0, 1, 2, 3]

    @pytest.mark.parametrize("renewal", ["report", "renew"])
    def test_a_worker_that_writes_keeps_its_trial(
        self, desk: Desk, expire: Callable[[], None], renewal: str
    ) -> None:
        expire()
        lease = desk.must_claim("a")
        expire()
        write(desk.ledger, lease, renewal)
        assert desk.must_claim("b").number == 1

    def test_release_tells_whether_there_was_anything(self, desk: Desk) -> None:
        desk.must_claim("a")
        assert desk.ledger.release("a", blameless=True)
        assert not desk.ledger.release("a", blameless=True)
        assert desk.ledger.owners() == []
        assert desk.must_claim("b").number == 0
