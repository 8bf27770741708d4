"""Workers that come back from the dead, and trials that kill them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from desk import STUDY, WRITES, Desk, curve, write

from pipeline.study.storage import claim
from pipeline.study.storage.claim import MAX_STRIKES
from pipeline.study.storage.ledger import LeaseLost, Ledger


class TestFencing:
    """A worker that was paused past its lease can change nothing more."""

    @pytest.mark.parametrize("kind", WRITES)
    def test_after_a_takeover(self, desk: Desk, expire: Callable[[], None], kind: str) -> None:
        expire()
        zombie = desk.must_claim("a")
        expire()
        desk.must_claim("b")
        before = desk.row()
        with pytest.raises(LeaseLost, match=f"trial 0 of {STUDY}"):
            write(desk.ledger, zombie, kind)
        assert desk.row() == before

    @pytest.mark.parametrize("kind", WRITES)
    def test_after_a_takeover_by_itself(
        self, desk: Desk, expire: Callable[[], None], kind: str
    ) -> None:
        expire()
        zombie = desk.must_claim("a")
        desk.must_claim("a")
        before = desk.row()
        with pytest.raises(LeaseLost):
            write(desk.ledger, zombie, kind)
        assert desk.row() == before

    @pytest.mark.parametrize("kind", WRITES)
    def test_after_the_end_by_another(
        self, desk: Desk, expire: Callable[[], None], kind: str
    ) -> None:
        expire()
        zombie = desk.must_claim("a")
        desk.complete(desk.must_claim("b"))
        before = desk.row()
        with pytest.raises(LeaseLost):
            write(desk.ledger, zombie, kind)
        assert desk.row() == before

    @pytest.mark.parametrize("kind", WRITES)
    def test_after_its_own_end(self, desk: Desk, kind: str) -> None:
        lease = desk.must_claim("a")
        desk.complete(lease)
        before = desk.row()
        with pytest.raises(LeaseLost):
            write(desk.ledger, lease, kind)
        assert desk.row() == before

    @pytest.mark.parametrize("kind", WRITES)
    @pytest.mark.parametrize("blameless", [True, False])
    def test_after_a_release_in_its_name(self, desk: Desk, kind: str, blameless: bool) -> None:
        lease = desk.must_claim("a")
        desk.ledger.release("a", blameless=blameless)
        before = desk.row()
        with pytest.raises(LeaseLost):
            write(desk.ledger, lease, kind)
        assert desk.row() == before

    def test_a_zombie_that_comes_first_is_none(
        self, desk: Desk, expire: Callable[[], None]
    ) -> None:
        """A lease that has run out still counts until someone takes the trial."""
        expire()
        lease = desk.must_claim("a")
        expire()
        desk.complete(lease)
        assert desk.row().state == "complete"
        assert desk.must_claim("b").number == 1

    def test_a_zombie_releases_nothing_of_others(
        self, desk: Desk, expire: Callable[[], None]
    ) -> None:
        expire()
        desk.must_claim("a")
        expire()
        taken = desk.must_claim("b")
        assert not desk.ledger.release("a", blameless=True)
        desk.complete(taken)


class TestStrikes:
    """A trial that kills its workers without getting on fails, and the search goes on."""

    def crash(self, desk: Desk, epochs: int = 0) -> bool:
        """A worker claims trial 0, reports so many epochs and dies; False if 0 is over."""
        lease = desk.must_claim("a")
        if lease.number:
            return False
        if epochs:
            desk.ledger.report(lease, curve(epochs))
        assert desk.ledger.release("a", blameless=False)
        return True

    def test_enough_deaths_fail_it_with_the_reason(self, desk: Desk) -> None:
        deaths = list(itertools.takewhile(bool, (self.crash(desk) for _ in range(10))))
        assert len(deaths) == MAX_STRIKES
        trial = desk.row()
        assert (trial.state, trial.owner, trial.result) == ("failed", None, None)
        assert (
            trial.reason
            == "killed 3 workers before it got any farther: it crashes, or is too large"
        )
        assert trial.finished_ms is not None

    def test_leases_that_run_out_are_none(self, desk: Desk, expire: Callable[[], None]) -> None:
        """Three within one long epoch: hosts that sleep, networks that are away."""
        expire()
        assert [desk.must_claim("a").number for _ in range(3 * MAX_STRIKES)] == [0] * 9
        expire()
        assert desk.must_claim("a").number == 0
        assert desk.row().strikes == 0

    def test_a_known_death_is_counted_once(self, desk: Desk) -> None:
        self.crash(desk)
        desk.must_claim("b")
        assert desk.row().strikes == 1

    def test_an_end_that_was_asked_for_is_no_strike(self, desk: Desk) -> None:
        for _ in range(3 * MAX_STRIKES):
            assert desk.must_claim("a").number == 0
            desk.ledger.release("a", blameless=True)
        assert desk.row().strikes == 0

    def test_progress_clears_them(self, desk: Desk) -> None:
        for epochs in range(1, 2 * MAX_STRIKES):
            assert self.crash(desk)
            assert desk.row().strikes == min(epochs, 2)
            assert self.crash(desk, epochs)
            assert desk.row().strikes == 1  # of the death after that epoch

    def test_an_epoch_from_the_checkpoint_is_no_progress(self, desk: Desk) -> None:
        """The next worker reports the epochs that it finds, and dies in the one after."""
        deaths = list(itertools.takewhile(bool, (self.crash(desk, 2) for _ in range(10))))
        assert len(deaths) == MAX_STRIKES
        assert desk.row().curve == curve(2)

    def test_neither_are_epochs_done_again(self, desk: Desk) -> None:
        """On a host without the checkpoint it starts anew and dies in the same epoch."""
        self.crash(desk, 3)
        for _ in range(MAX_STRIKES - 1):
            lease = desk.must_claim("a")
            for epochs in (1, 2, 3):
                desk.ledger.report(lease, curve(epochs))
            desk.ledger.release("a", blameless=False)
        assert desk.must_claim("a").number == 1
        assert desk.row().state == "failed"


@pytest.mark.slow
class TestBetweenReadAndWrite:
    """On PostgreSQL a holder may write while another one's claim has read its trial already."""

    @pytest.fixture
    def late(
        self, postgres_storage: str, expire: Callable[[], None], monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[Callable[..., tuple[Desk, int]]]:
        """Has the holder of a lease that ran out write in the midst of a claim, which is returned
        as the number that it got; by then the holder has killed so many workers."""
        other, abandoned = Ledger(postgres_storage), claim._abandoned

        def happen(kind: str, strikes: int = 0) -> tuple[Desk, int]:
            desk = Desk(postgres_storage)
            for _ in range(strikes):
                desk.must_claim("a")
                desk.ledger.release("a", blameless=False)
            expire()
            holder = desk.must_claim("a")
            expire()

            def read(*arguments: Any) -> Any:
                rows = abandoned(*arguments)
                write(other, holder, kind)
                return rows

            monkeypatch.setattr(claim, "_abandoned", read)
            number = desk.must_claim("b").number
            desk.ledger.close()
            return Desk(postgres_storage), number

        yield happen
        other.close()

    @pytest.mark.parametrize("kind", WRITES)
    @pytest.mark.parametrize("strikes", [0, MAX_STRIKES - 1])
    def test_what_it_writes_stays(
        self, late: Callable[..., tuple[Desk, int]], kind: str, strikes: int
    ) -> None:
        desk, number = late(kind, strikes)
        trial = desk.row()
        assert number == 1
        assert trial.state == {"complete": "complete", "fail": "failed"}.get(kind, "running")
        assert trial.reason == ("zombie" if kind == "fail" else None)
        assert trial.owner == ("a" if trial.state == "running" else None)
        desk.ledger.close()
