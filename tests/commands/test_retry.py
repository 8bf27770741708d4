"""`retry`: what it opens again, what it leaves alone, and the answer that then comes out."""

from __future__ import annotations

import pytest
from crews import Sweep, at_epoch
from desk import STUDY, Desk, curve
from studies import begin, whole
from studies import trial as made

from pipeline.commands.retry import retry_failed
from pipeline.errors import UserError
from pipeline.settings.machine import Machine
from pipeline.study.storage.claim import Claimant
from pipeline.study.storage.ledger import LeaseLost
from pipeline.study.storage.reopen import AtWork, Reopening, reopen, to_reopen
from pipeline.vae.training import Training

STATES = ["complete", "failed", "complete", "failed", "paused", "complete"]


@pytest.mark.parametrize(
    ("trial", "follows", "failed", "seeing"),
    [
        (None, [None, None, 0, 1, 2, 3], [1], [3, 4, 5]),  # 3 failed too, and had seen 1
        (None, [None, None, None, None, 0, 1], [1, 3], [5]),
        (3, [None, None, 0, 1, 2, 3], [3], [5]),
        (None, [None] * 6, [1, 3], []),  # draws at random that nothing prunes
    ],
)
def test_what_had_seen_a_failed_trial(
    trial: int | None, follows: list[int | None], failed: list[int], seeing: list[int]
) -> None:
    parts = [
        whole(made(number, state=state), follows=before)
        for number, (state, before) in enumerate(zip(STATES, follows, strict=True))
    ]
    assert to_reopen(parts, trial) == (failed, seeing)


def test_an_opened_trial_belongs_to_nobody_of_before(desk: Desk) -> None:
    leases = [begin(desk.ledger, STUDY, {"lr": 1.0}, until=3, owner=owner) for owner in "ab"]
    desk.ledger.finish(leases[0], "failed", curve(1), None, "a reason")
    with pytest.raises(AtWork):
        reopen(desk.ledger, Reopening(STUDY, [0], []))
    assert desk.row(0).state == "failed"
    desk.complete(leases[1])
    reopen(desk.ledger, Reopening(STUDY, [0], [1]))
    for lease in leases:
        with pytest.raises(LeaseLost):
            desk.ledger.renew(lease)
    again = desk.must_claim("c")
    assert (again.number, again.parameters, again.curve) == (0, {"lr": 1.0}, [])
    assert [part.number for part in desk.ledger.parts(STUDY)] == [0]  # 1 is planned anew
    assert desk.ledger.claim(STUDY, Claimant("d"), budget=9) is None


def test_what_came_after_the_study_was_read_is_not_left_as_it_is(desk: Desk) -> None:
    """Another host goes on between the reading and the opening: its trials saw the failed one."""
    desk.ledger.finish(desk.must_claim("a"), "failed", [], None, "a reason")
    failed, seeing, known = [0], list[int](), 1
    desk.complete(desk.must_claim("b"))
    with pytest.raises(AtWork):
        reopen(desk.ledger, Reopening(STUDY, failed, seeing, known))
    assert desk.row(0).state == "failed"
    reopen(desk.ledger, Reopening(STUDY, failed, [1], 2))
    with pytest.raises(AtWork):  # someone was faster: the one that is open now keeps what it has
        reopen(desk.ledger, Reopening(STUDY, failed, [1], 2))


def retry(made: Sweep, number: int | None = None) -> list[str]:
    return retry_failed(made.root, Machine(tracking="none"), "tiny", number)


def test_a_retry_opens_all_or_nothing(tiny: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """On another host a run of a candidate is in work: the search's failure stays, too."""
    ledger, (candidate,) = tiny.ledger, tiny.candidates({"lr": 0.01})
    monkeypatch.setattr("pipeline.commands.retry._candidates", lambda *_: [candidate])
    for study in (tiny.study, candidate):
        ledger.open_study(study.id, "tiny", study.kind, study.spec)
        lease = begin(ledger, study.id, {"lr": 0.01}, until=3, owner="a")
        ledger.finish(lease, "failed", [], None, "a reason")
    begin(ledger, candidate.id, {"lr": 0.01}, until=3, owner="another")
    with pytest.raises(UserError, match=f"study {candidate.id} is being worked on"):
        retry(tiny)
    assert [trial.state for trial in tiny.trials()] == ["failed"]


def test_after_a_retry_the_answer_is_that_of_a_search_without_the_failure(
    tiny: Sweep, undisturbed: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Training) -> None:
        raise ValueError("a bug in this model, mended since")

    at_epoch(monkeypatch, 2, fail)
    assert tiny.worker().work() == 0
    assert tiny.tables() != undisturbed.tables()
    whole_ = next(trial.number for trial in tiny.trials() if trial.state == "complete")
    with pytest.raises(UserError, match=rf"^retry tiny: trial {whole_} must be one that failed"):
        retry(tiny, whole_)
    count = len(tiny.ledger.parts(tiny.study.id))
    opened, how = retry(tiny)
    assert opened == (
        f"search {tiny.study.id}: trials 0 are open again, and {count - 2} of {count} parts, which"
        " had seen them, are planned anew"
    )
    assert "python -m pipeline run tiny" in how
    assert tiny.worker().work() == 0
    assert tiny.tables() == undisturbed.tables()
