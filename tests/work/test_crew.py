"""A crew: its lock, its signals, the dead and the orphans it finds, and what kills do to it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from crews import (
    Sweep,
    alive,
    children,
    eventually,
    in_midst_of_a_trial,
    make_sweep,
    no_one_left,
    pid_of,
    sweep,
)
from filelock import FileLock
from studies import next_lease

from pipeline.errors import Interrupted, UserError
from pipeline.settings.deadline import now
from pipeline.settings.machine import Machine
from pipeline.settings.snapshot import take
from pipeline.study.storage.ledger import Lease, Trial
from pipeline.work import crew, owners
from pipeline.work.owners import owner_name

LONG = {"trials": 3, "epochs": 60, "parallelism": 2, "rungs": [60]}


@pytest.fixture
def tiny(tmp_path: Path) -> Sweep:
    """A sweep of a few trials that are long enough to be met in their midst."""
    return make_sweep(tmp_path / "clone", sweep(search=LONG, parameters={"patience": None}))


def run_crew(made: Sweep, machine: Machine | None = None) -> None:
    study, ledger = made.study, made.ledger
    ledger.open_study(study.id, "tiny", study.kind, study.spec)
    machine = machine or made.machine()
    crew.Crew("search", made.space, machine, made.paths, ledger, [study]).work()


def claim(made: Sweep, owner: str) -> Lease:
    study, ledger = made.study, made.ledger
    ledger.open_study(study.id, "tiny", study.kind, study.spec)
    lease = next_lease(ledger, study.id, owner=owner)
    assert lease
    return lease


@contextmanager
def process(seconds: str = "60") -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", seconds]) as sleeping:
        try:
            yield sleeping
        finally:
            sleeping.kill()


def test_a_second_crew_is_the_users_mistake(
    tiny: Sweep, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(crew, "LOCK_SECONDS", 0.1)
    tiny.paths.study(tiny.study.id).mkdir(parents=True)
    with (
        FileLock(tiny.paths.study(tiny.study.id) / "lock"),
        pytest.raises(UserError, match=r"^search tiny runs already on this host: wait"),
    ):
        run_crew(tiny)
    assert capsys.readouterr().err == "search tiny: another process works on it; waiting\n"
    assert tiny.trials() == []


def test_a_crew_waits_for_one_that_is_about_to_end(tiny: Sweep) -> None:
    """As when the same command is given again right after Ctrl-C."""
    for _ in range(tiny.study.budget):
        tiny.ledger.finish(claim(tiny, "elsewhere/1/1"), "failed", [], None, "a reason")
    tiny.paths.study(tiny.study.id).mkdir(parents=True)
    lock = FileLock(tiny.paths.study(tiny.study.id) / "lock", thread_local=False)
    lock.acquire()
    threading.Timer(0.3, lock.release).start()
    run_crew(tiny)
    assert not lock.is_locked


def test_who_has_waited_says_what_there_is_by_then(tiny: Sweep) -> None:
    tiny.ledger.open_study(tiny.study.id, "tiny", tiny.study.kind, tiny.study.spec)
    folder = tiny.paths.study(tiny.study.id)
    folder.mkdir(parents=True)
    with FileLock(folder / "lock"):
        command = tiny.start("search", workers=1)
        eventually(lambda: "works on it; waiting" in tiny.errors, "it waits")
        for _ in range(tiny.study.budget):
            tiny.ledger.finish(claim(tiny, "elsewhere/1/1"), "failed", [], None, "a reason")
    command.wait(60)
    assert "has 3 of 3 trials" in tiny.errors


def test_what_the_dead_held_is_released_and_what_others_hold_is_not(tiny: Sweep) -> None:
    here = owner_name(1).split("/")[0]
    with process() as gone:
        dead = owner_name(gone.pid)
    with process() as living:
        holders = [dead, f"{here}/{living.pid}/1", owner_name(living.pid), "elsewhere/1/1"]
        for owner in holders:  # the second: a process that has got the number of a dead one
            claim(tiny, owner)
        owners.release_the_dead(tiny.ledger)
        assert [trial.owner for trial in tiny.trials()] == [None, None, *holders[2:]]
        assert [trial.strikes for trial in tiny.trials()] == [0, 0, 0, 0]
        assert tiny.trials()[0].expires == 0  # to be claimed at once


def test_a_crew_waits_for_orphans_of_its_study_alone(
    tiny: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers whose parent was killed may need a moment to notice."""
    monkeypatch.setattr(owners, "ORPHAN_SECONDS", 60.0)
    ledger = tiny.ledger
    ledger.open_study("other", "tiny", "search", {})
    with process() as busy, process("0.5") as orphan:
        next_lease(ledger, "other", owner=owner_name(busy.pid))
        claim(tiny, owner_name(orphan.pid))
        owners.await_orphans(ledger, [tiny.study])
        assert owner_name(orphan.pid).endswith("/")  # it is dead
        assert not owner_name(busy.pid).endswith("/")


def test_a_killed_worker_is_a_strike_and_one_that_left_is_not(tiny: Sweep) -> None:
    for killed, strikes in ((True, 1), (False, 0)):
        with process() as worker:
            lease = claim(tiny, owner_name(worker.pid))
        assert owners.bury(worker.pid, killed, tiny.ledger) is killed
        assert tiny.trials()[lease.number].strikes == strikes
        assert tiny.trials()[lease.number].owner is None
        claim(tiny, "elsewhere/1/1")
    assert owners.bury(worker.pid, True, tiny.ledger) is False  # it held nothing


def test_what_the_killed_have_left_of_finished_trials_is_cleared(tiny: Sweep) -> None:
    """A worker may die after it has recorded the end, or while it writes."""
    names = ["checkpoint-1.safetensors", ".checkpoint-2.safetensors.x1y2z3.safetensors",
             "model.safetensors"]  # fmt: skip
    for _ in range(2):
        lease = claim(tiny, "elsewhere/1/1")
        for name in names:
            path = tiny.paths.trial(tiny.study.id, lease.number) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    tiny.ledger.finish(lease, "failed", [], None, "a reason")
    with pytest.raises(Interrupted):
        run_crew(tiny, tiny.machine().model_copy(update={"until": now()}))
    folders = [tiny.paths.trial(tiny.study.id, number) for number in (0, 1)]
    assert sorted(path.name for path in folders[0].iterdir()) == sorted(names)
    assert [path.name for path in folders[1].iterdir()] == ["model.safetensors"]


def test_a_killed_worker_and_a_killed_parent_change_no_byte(tiny: Sweep, tmp_path: Path) -> None:
    undisturbed = make_sweep(
        tmp_path / "undisturbed", sweep(search=LONG, parameters={"patience": None})
    )
    assert undisturbed.worker().work() == 0

    command = tiny.start("search", workers=2)
    with no_one_left(command):
        victim = eventually(lambda: in_midst_of_a_trial(tiny), "a trial is at work")
        os.kill(pid_of(victim), signal.SIGKILL)

        def taken_over() -> Trial | None:
            now = tiny.trials()[victim.number]
            return now if now.owner not in (victim.owner, None) else None

        heir = eventually(taken_over, "the trial has a new owner")
        assert heir.number == victim.number
        assert len(heir.curve) >= len(victim.curve)  # nothing that was reported is lost
        workers = children(command.pid)
        command.kill()
        command.wait()
        eventually(lambda: not any(alive(pid) for pid in workers), "its workers have left")

    finished = sum(trial.state != "running" for trial in tiny.trials())
    assert finished < tiny.study.budget
    command = tiny.start("search", workers=1)
    with no_one_left(command):
        assert command.wait(120) == 0, tiny.errors
    assert f"has {finished} of 3 trials" in tiny.errors
    assert tiny.tables() == undisturbed.tables()


@pytest.mark.parametrize(
    "kind",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_a_stop_that_is_asked_for_says_how_to_go_on_and_holds_nothing(
    kind: signal.Signals, tiny: Sweep
) -> None:
    command = tiny.start("search", workers=1)
    with no_one_left(command):
        eventually(lambda: any(trial.curve for trial in tiny.trials()), "an epoch is recorded")
        command.send_signal(kind)
        assert command.wait(60) == 130
    last = tiny.errors.splitlines()[-1]
    finished = sum(trial.state != "running" for trial in tiny.trials())
    assert last == (
        f"search tiny: interrupted with {finished} of 3 trials finished; nothing is lost: the same"
        " command goes on"
    )
    assert "Traceback" not in tiny.errors
    assert tiny.held() == []
    assert {trial.strikes for trial in tiny.trials()} == {0}


@pytest.mark.slow
def test_a_killed_dvc_takes_its_stage_along(tiny: Sweep) -> None:
    take(tiny.paths)  # as the stage before does
    dvc = tiny.start("search", 1, "/bin/sh", "-c", '"$@"; true', "dvc", DVC_STAGE="search@tiny")
    with no_one_left(dvc):
        eventually(lambda: any(trial.curve for trial in tiny.trials()), "an epoch is recorded")
        (command,) = children(dvc.pid)
        dvc.kill()
        dvc.wait()
        eventually(lambda: not alive(command), "the stage has ended")
    assert "the same command goes on" in tiny.errors.splitlines()[-1]
    assert tiny.held() == []


def test_at_its_deadline_a_search_stops_as_if_it_were_asked_to(tmp_path: Path) -> None:
    endless = make_sweep(tmp_path, sweep(search={"trials": 100_000, "epochs": 20}))
    until = (now() + timedelta(seconds=8)).isoformat()
    command = endless.start("search", 1, PIPELINE_UNTIL=until)
    with no_one_left(command):
        assert command.wait(120) == 130
    assert re.fullmatch(
        # on a busy machine it may not have begun by then
        r"search tiny: stopped at .*, its time limit(, with \d+ of 100000 trials finished)?;"
        r" nothing is lost: the same command goes on",
        endless.errors.splitlines()[-1],
    )
    assert endless.held() == []
    assert {trial.strikes for trial in endless.trials()} <= {0}


def test_after_its_deadline_nothing_starts_but_what_is_finished_is_done(tiny: Sweep) -> None:
    """As in the stages of one `dvc repro`."""
    past = tiny.machine().model_copy(update={"until": now()})
    with pytest.raises(Interrupted, match="with 0 of 3 trials finished"):
        run_crew(tiny, past)
    assert tiny.trials() == []
    for _ in range(tiny.study.budget):
        tiny.ledger.finish(claim(tiny, "elsewhere/1/1"), "failed", [], None, "a reason")
    run_crew(tiny, past)


@pytest.mark.slow
def test_asked_twice_it_leaves_at_once_and_holds_nothing(tiny: Sweep) -> None:
    command = tiny.start("search", workers=2)
    with no_one_left(command):
        eventually(lambda: in_midst_of_a_trial(tiny), "a trial is at work")  # it cannot stop
        command.send_signal(signal.SIGTERM)
        eventually(lambda: "once more to leave at once" in tiny.errors, "the first is understood")
        command.send_signal(signal.SIGTERM)
        assert command.wait(60) == 130
    assert tiny.held() == []
    assert {trial.strikes for trial in tiny.trials()} == {0}
