"""A worker in this process: stopped, overtaken, bereft of its storage."""

from __future__ import annotations

from typing import Any

import pytest
from crews import Killed, Sweep, at_epoch
from sqlalchemy.exc import OperationalError

from pipeline.commands import worker as command
from pipeline.seeds import trial_seed
from pipeline.study.storage import heartbeat as renewal_module
from pipeline.study.storage import ledger as ledger_module
from pipeline.study.storage.claim import MAX_STRIKES, Claimant, Lease
from pipeline.study.storage.ledger import LeaseLost, Ledger
from pipeline.study.storage.workers import PAUSE, Presence, arrive, wish
from pipeline.study.watch import Watch
from pipeline.vae.training import Leaves, Training
from pipeline.work.job import Job
from pipeline.work.leave_signals import Told
from pipeline.work.owners import owner_name, process_start
from pipeline.work.worker import INTERRUPTED


def test_a_stopped_worker_leaves_its_epoch_and_holds_nothing(
    tiny: Sweep, undisturbed: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = tiny.worker()
    at_epoch(monkeypatch, 2, lambda _: setattr(worker, "stopping", True))
    assert worker.work() == INTERRUPTED
    (trial,) = tiny.trials()
    assert (trial.state, len(trial.curve), trial.strikes) == ("running", 1, 0)
    assert tiny.held() == []
    assert tiny.worker().work() == 0
    assert tiny.tables() == undisturbed.tables()


def test_a_time_limit_during_a_pause_ends_the_worker_and_not_the_pause(
    tiny: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one of its task waits as well."""
    ledger = tiny.ledger
    for owner in ("first", "next"):
        worker = tiny.worker(ledger, presence=(presence := Presence(owner)))
        wish(ledger, "tiny", PAUSE)
        arrive(ledger, presence, "tiny", "7_0")
        monkeypatch.setattr(worker._idle, "wait", lambda ends, stop=worker.stop: stop())
        assert worker.work() == INTERRUPTED
        assert presence.wish == PAUSE
    assert tiny.trials() == []


def test_a_worker_that_outlived_its_lease_changes_nothing_more(
    tiny: Sweep,
    undisturbed: Sweep,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Paused past its lease (SIGSTOP, a laptop's lid), while another one ends the whole search."""
    now, zombie, other = [1e9], tiny.worker(), tiny.worker(presence=Presence("elsewhere/1/2"))
    monkeypatch.setattr(ledger_module, "clock", lambda _: now[0])
    seen = []

    def pause(_: Training) -> None:
        now[0] += ledger_module.LEASE_SECONDS + 1
        assert other.work() == 0
        seen.append(tiny.trials())

    at_epoch(monkeypatch, 2, pause)
    assert zombie.work() == 0
    assert "left alone: trial 0" in capsys.readouterr().err
    assert seen == [tiny.trials()]
    assert tiny.tables() == undisturbed.tables()


def test_a_lease_that_runs_out_is_no_strike(tiny: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    now, ledger, strikes = [1e9], tiny.ledger, []
    monkeypatch.setattr(ledger_module, "clock", lambda _: now[0])
    worker = tiny.worker(ledger)
    lease = claim(tiny, ledger, "elsewhere/1/2")
    now[0] += ledger_module.LEASE_SECONDS + 1
    at_epoch(monkeypatch, 1, lambda _: strikes.append(tiny.trials()[0].strikes))
    assert worker.work() == 0
    assert strikes == [0]
    with pytest.raises(LeaseLost, match="trial 0"):
        ledger.report(lease, [])


def claim(made: Sweep, ledger: Ledger, owner: str) -> Lease:
    study = made.study
    """Begins the first part of the search, as a worker of another host does."""
    watch = Watch(ledger, study, made.space)
    watch.refresh()
    plan = made.worker(ledger).claims.plan(watch)
    assert plan
    lease = ledger.begin(study.id, plan, Claimant(owner))
    assert lease is not None
    return lease


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_trial_that_kills_its_workers_in_the_same_epoch_fails_and_the_search_goes_on(
    epoch: int, tiny: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_epoch, ledger, deaths = Training.run_epoch, tiny.ledger, 0
    killer = trial_seed(tiny.space.search.seed, 0, fresh=False)

    def deadly(training: Training, *leaves: Leaves) -> dict[str, Any] | None:
        if training.seed == killer and len(training.records) == epoch - 1:
            raise Killed
        return run_epoch(training, *leaves)

    monkeypatch.setattr(Training, "run_epoch", deadly)
    while True:
        worker = tiny.worker(ledger)
        try:
            assert worker.work() == 0
        except Killed:
            deaths += 1
            assert deaths <= MAX_STRIKES
            ledger.release(worker.who.owner, blameless=False)
        else:
            break
    first, *others = tiny.trials()
    assert first.state == "failed"
    assert first.reason == "killed 3 workers before it got any farther: it crashes, or is too large"
    assert len(first.curve) == epoch - 1
    assert "complete" in {trial.state for trial in others}
    assert len(others) == tiny.study.budget - 1


def test_a_storage_that_fails_ends_the_worker_and_not_the_trial(
    tiny: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object) -> None:
        raise OperationalError("UPDATE trials", {}, Exception("server closed the connection"))

    monkeypatch.setattr(Ledger, "report", unreachable)
    with pytest.raises(OperationalError):
        tiny.worker().work()
    assert tiny.trials()[0].state == "running"


def test_a_renewal_that_fails_is_noticed_at_the_end_of_the_epoch(
    tiny: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = []

    def unreachable(*_: object) -> None:
        failed.append(True)
        raise OperationalError("UPDATE trials", {}, Exception("server closed the connection"))

    def wait(_: Training) -> None:
        while not failed:
            pass

    monkeypatch.setattr(renewal_module, "LEASE_SECONDS", 0.01)
    monkeypatch.setattr(Ledger, "renew", unreachable)
    at_epoch(monkeypatch, 1, wait)
    with pytest.raises(OperationalError):
        tiny.worker().work()
    assert tiny.trials()[0].curve == []


def test_a_long_epoch_keeps_its_lease(tiny: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    renewed: list[int] = []
    renew = Ledger.renew

    def noted(ledger: Ledger, lease: Lease) -> None:
        renew(ledger, lease)
        renewed.append(lease.number)

    def wait(_: Training) -> None:
        while len(renewed) < 3:
            pass

    monkeypatch.setattr(renewal_module, "LEASE_SECONDS", 0.01)
    monkeypatch.setattr(Ledger, "renew", noted)
    at_epoch(monkeypatch, 1, wait)
    worker = tiny.worker()
    assert worker.work() == 0
    assert renewed[:3] == [0, 0, 0]


def test_who_is_told_to_leave_before_it_has_begun_leaves_at_once(
    tiny: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To import torch takes long where others keep the machine busy."""
    job, told = tiny.worker()._job, Told()
    job.keep(tiny.ledger)

    def begins(*_: object) -> None:
        told._hear()
        pytest.fail("it goes on")

    monkeypatch.setattr(command, "Worker", begins)
    monkeypatch.setattr(command, "_die_with_parent", lambda: None)
    monkeypatch.setenv("PIPELINE_STORAGE", f"sqlite:///{tiny.paths.ledger}")
    monkeypatch.setenv("PIPELINE_DEVICE", "cpu")
    for _ in range(2):  # the second one has heard it even earlier
        assert command.work(tiny.root, job.id, 0, told, child=True) == INTERRUPTED
    assert tiny.held() == []


def test_a_job_is_read_as_it_was_written_and_holds_no_password(tiny: Sweep) -> None:
    worker = tiny.worker(None, {"lr": 0.02}, {"lr": 0.04})
    text = worker._job.model_dump_json(indent=1)
    assert Job.model_validate_json(text) == worker._job
    assert "sqlite" not in text


def test_process_start_knows_the_living_from_the_dead() -> None:
    import os
    import subprocess

    process = subprocess.Popen(["sleep", "60"])
    start = process_start(process.pid)
    assert start.isdecimal()
    assert owner_name(process.pid).endswith(f"/{process.pid}/{start}")
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and nobody has waited for it
    assert process_start(process.pid) == ""
    process.wait()
    assert process_start(process.pid) == ""
