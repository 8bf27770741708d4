"""What asks work to stop, with real signals: which request is the second one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from datetime import timedelta

import pytest

from pipeline.settings import deadline
from pipeline.settings.deadline import now
from pipeline.work.stopping import stop_requests


@pytest.fixture
def pass_deadline(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes the time that is two hours away be over."""
    return lambda: monkeypatch.setattr(deadline, "now", lambda: now() + timedelta(hours=3))


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


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
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.asked
        assert not stop.urgent
        assert stop.signals == [signal.SIGHUP]  # by which workers of Slurm are left alone
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.urgent
