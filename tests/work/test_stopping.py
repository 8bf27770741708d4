"""What asks work to stop, with real signals: which request is the second one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline.errors import OutOfTime
from pipeline.own_code import Fault, in_time
from pipeline.settings import deadline
from pipeline.settings.deadline import now
from pipeline.work import stopping
from pipeline.work.stopping import ends_at, stop_requests

ROOT = Path(__file__).parents[2]


@pytest.fixture
def pass_deadline(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes the time that is two hours away be over."""
    return lambda: monkeypatch.setattr(deadline, "now", lambda: now() + timedelta(hours=3))


def interrupt() -> None:
    """At once: a signal by `kill` may come to another thread, and is met some lines later."""
    signal.raise_signal(signal.SIGINT)


def test_a_deadline_after_ctrl_c_is_no_second_request(pass_deadline: Callable[[], None]) -> None:
    with stop_requests(now() + timedelta(hours=2)) as stop:
        assert not stop.asked
        interrupt()
        assert stop.asked
        pass_deadline()
        assert not stop.urgent
        assert stop.reason == "interrupted"
        interrupt()
        assert stop.urgent


def test_ctrl_c_after_the_deadline_is_one(pass_deadline: Callable[[], None]) -> None:
    with stop_requests(now() + timedelta(hours=2)) as stop:
        pass_deadline()
        assert stop.asked
        assert not stop.urgent
        interrupt()
        assert stop.urgent


def test_a_closed_terminal_is_one_request_however_often_it_is_told() -> None:
    """A shell passes its hang-up on and dies, whereupon the kernel sends another one."""
    with stop_requests(None) as stop:
        for _ in range(2):
            signal.raise_signal(signal.SIGHUP)
        assert stop.asked
        assert not stop.urgent
        assert stop.signals == [signal.SIGHUP]  # by which workers of Slurm are left alone
        signal.raise_signal(signal.SIGTERM)
        assert stop.urgent


def test_a_deadline_ends_work_wherever_it_is() -> None:
    later, soon = now() + timedelta(hours=2), now() + timedelta(seconds=0.01)
    said = r"evaluate tiny: stopped at .*, its time limit; nothing is lost"
    with pytest.raises(OutOfTime, match=said), ends_at(later, "evaluate tiny"):
        signal.raise_signal(signal.SIGALRM)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    with pytest.raises(OutOfTime), ends_at(soon, "evaluate tiny"):
        time.sleep(60)


def test_a_deadline_outlasts_the_time_for_code_of_your_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.own_code.SECONDS", 0.05)
    with ends_at(now() + timedelta(hours=2), "search tiny"):
        for _ in range(2):
            with pytest.raises(Fault, match="has not answered within"), in_time("f.py:F"):
                time.sleep(60)
            left, again = signal.getitimer(signal.ITIMER_REAL)
            assert 7100 < left < 7200
            assert again == stopping.AGAIN_SECONDS
    soon = now() + timedelta(seconds=0.01)
    with pytest.raises(OutOfTime), ends_at(soon, "search tiny"), in_time("f.py:F"):
        time.sleep(60)


def test_a_deadline_that_passes_as_its_block_ends_leaves_no_alarm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = signal.setitimer

    def late(which: int, seconds: float, again: float = 0.0) -> None:
        if not seconds:
            signal.raise_signal(signal.SIGALRM)
        real(which, seconds, again)

    monkeypatch.setattr(signal, "setitimer", late)
    before = signal.getsignal(signal.SIGALRM)
    with ends_at(now() + timedelta(hours=2), "evaluate tiny"):
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) == before


def test_a_deadline_that_python_has_dropped_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does where it passes within a callback or a `__del__`."""
    monkeypatch.setattr(stopping, "AGAIN_SECONDS", 0.01)

    def evaluate() -> None:
        with suppress(KeyboardInterrupt):
            time.sleep(60)
        time.sleep(60)

    with pytest.raises(OutOfTime), ends_at(now() + timedelta(seconds=0.01), "evaluate tiny"):
        evaluate()


AT_WORK = """
import signal
from datetime import timedelta
from pipeline.errors import OutOfTime
from pipeline.settings.deadline import now
"""
BY_DEADLINE = f"""{AT_WORK}
from pipeline.work.stopping import ends_at
try:
    with ends_at(now() + timedelta(seconds=0.1), "search tiny"):
        exec("while True: pass")
except OutOfTime:
    raise SystemExit(130)
"""
BY_CTRL_C = f"""{AT_WORK}
from pipeline import __main__ as command
command.app = lambda **_: exec("while True: signal.raise_signal(signal.SIGINT)", globals())
command.main()
"""
OF_A_WORKER = f"""{AT_WORK}
from pipeline.errors import stop_here
from pipeline.work.leave_signals import listen
told = listen(alone=True)
told.then = stop_here
try:
    exec("while True: signal.raise_signal(signal.SIGTERM)")
except KeyboardInterrupt:
    raise SystemExit(130)
"""


@pytest.mark.parametrize("program", [BY_DEADLINE, BY_CTRL_C, OF_A_WORKER])
def test_what_ends_in_code_that_is_run_from_a_string_has_its_exit_code(
    program: str, tmp_path: Path
) -> None:
    """As imports are, which make data classes; Python would end by SIGINT instead."""
    (tmp_path / "program.py").write_text(program)
    path = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(tmp_path)))}
    done = subprocess.run([sys.executable, "-m", "program"], env={**os.environ, **path})
    assert done.returncode == 130


def test_ctrl_c_is_no_deadline_and_what_begins_after_one_has_none() -> None:
    with pytest.raises(KeyboardInterrupt), ends_at(now() + timedelta(hours=2), "evaluate tiny"):
        interrupt()
    with ends_at(now() - timedelta(seconds=1), "evaluate tiny"):
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_trainings_are_saved_before_a_deadline_ends_their_stage() -> None:
    saved = []

    def train() -> None:
        with stop_requests(None) as stop:
            signal.raise_signal(signal.SIGALRM)
            saved.append(stop.asked and not stop.urgent)

    with pytest.raises(OutOfTime), ends_at(now() + timedelta(hours=2), "retrain tiny"):
        train()
    assert saved == [True]
