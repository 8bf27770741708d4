"""What `status` says of a sweep in work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from crews import Sweep, make_sweep, sweep
from recording import record_stages
from studies import begin

from pipeline.commands import status
from pipeline.commands.status import status_text
from pipeline.settings.machine import Machine
from pipeline.study.search.forecast import forecast
from pipeline.study.storage import ledger as ledger_module
from pipeline.study.storage.ledger import Ledger
from pipeline.work.progress import clock_time

RESULT = {"nelbo_nats": 25.125, "epochs": 2}
CURVE = [{"epoch": epoch, "nelbo_nats": 30.0 - epoch, "seconds": 4.0} for epoch in (1, 2)]


@pytest.fixture
def tiny(tmp_path: Path) -> Sweep:
    """Of eight trials two finished, one failed, one paused, one held for 30 s, one abandoned."""
    made = make_sweep(tmp_path)
    study, ledger = made.study, made.ledger
    ledger.open_study(study.id, "tiny", study.kind, study.spec)
    leases = [
        begin(ledger, study.id, {"lr": 0.01}, until=8, owner=f"host/{pid}/1")
        for pid in range(100, 106)
    ]
    for lease in leases:
        ledger.report(lease, CURVE)
    for lease, state in zip(leases, ("complete", "pruned", "failed"), strict=False):
        result = None if state == "failed" else RESULT
        ledger.finish(lease, state, CURVE, result, "diverged\nTraceback" if not result else None)
    ledger.release("host/104/1", blameless=True)
    ledger.finish(leases[5], "paused", CURVE, {**RESULT, "nelbo_nats": 24.5})
    folder = made.paths.trial(study.id, 3)
    folder.mkdir(parents=True)
    (folder / "checkpoint-1.safetensors").write_bytes(bytes(1_500_000))
    return made


def test_a_study_in_work(tiny: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    study, later = tiny.study.id, Ledger.now(tiny.ledger) + 30
    monkeypatch.setattr(Ledger, "now", lambda _: later)
    text = status_text(tiny.root, Machine(tracking="none"), "tiny", [])
    left = clock_time((forecast(tiny.space).epochs - 12) * 4.0)
    assert re.sub(r"renewed \d+ s", "renewed 30 s", text).splitlines() == [
        f"search {study}: 6 trials: 2 running, 1 complete, 1 pruned, 1 paused, 1 failed",
        "  best: 5 with NELBO 24.50 nats after 2 of 8 epochs",
        "  rungs: trained 0 to epoch 3, 2 to epoch 8",
        f"  budget: 4 of 8 finished; 1 at work, about {left} left",
        "  arithmetic: unknown, of an earlier version",
        "  2: failed: diverged",
        "  3: 2 of 8 epochs done, 4.0 s an epoch; held by process 103 on host, renewed 30 s ago",
        "  4: 2 of 8 epochs done, 4.0 s an epoch; held by nobody: it goes on with the next worker",
        "  disk: 1.5 MB of checkpoints, weights and logs",
    ]


def test_a_lease_that_ran_out_is_told(tiny: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    later = Ledger.now(tiny.ledger) + ledger_module.LEASE_SECONDS + 1
    monkeypatch.setattr(Ledger, "now", lambda _: later)
    assert "s ago: its worker is gone, the next one takes it over" in status_text(
        tiny.root, Machine(tracking="none"), "tiny", []
    )
    monkeypatch.setattr(status, "is_here", lambda _: True)
    monkeypatch.setattr(status, "is_gone", lambda _: False)
    assert "its worker stands still" in status_text(tiny.root, Machine(tracking="none"), "tiny", [])


def test_a_study_of_another_space_has_no_budget(tiny: Sweep) -> None:
    tiny.ledger.open_study("tiny-other", "tiny", "search", {})
    *_, other, disk = status_text(tiny.root, Machine(tracking="none"), None, []).splitlines()
    assert other == (
        "search tiny-other, of other settings than the file's: 0 trials: 0 running, 0 complete,"
        " 0 pruned, 0 paused, 0 failed"
    )
    assert disk == "  disk: 0.0 MB of checkpoints, weights and logs"


def test_outputs_whose_ledger_was_moved_away_are_not_said_to_be_none(tmp_path: Path) -> None:
    made, machine = make_sweep(tmp_path), Machine(tracking="none")
    assert status_text(made.root, machine, "tiny", []).startswith("no study yet")
    made.paths.search.mkdir()
    (made.paths.search / "best.json").write_text('{"study": "tiny-0123456789ab", "ranking": []}')
    record_stages(made.paths, made.space, "search")
    text = status_text(made.root, machine, None, [])
    assert text.startswith("the ledger has no study of tiny, whose outputs are in runs/tiny:")


def test_a_search_without_a_success_says_what_to_do(tmp_path: Path) -> None:
    made = make_sweep(tmp_path, sweep(search={"trials": 2, "parallelism": 1, "rungs": [8]}))
    study, ledger = made.study, made.ledger
    ledger.open_study(study.id, "tiny", study.kind, study.spec)

    def text() -> str:
        return status_text(made.root, Machine(tracking="none"), "tiny", [])

    for number in range(2):
        assert "no trial has succeeded" not in text(), "it is not over"
        lease = begin(ledger, study.id, {"lr": 0.9}, until=8, owner=f"host/{number}/1")
        ledger.finish(lease, "failed", [], None, "diverged")
    assert (
        "  no trial has succeeded: change what search_spaces/tiny.yaml searches (a lower lr, if"
        " they diverged), set search.fallback, or train them again by `python -m pipeline retry"
        " tiny`"
    ) in text().splitlines()
