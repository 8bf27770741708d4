"""A search on a terminal of its own: Ctrl-C is typed into it, and the terminal is closed."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from safetensors import safe_open

from pipeline.study.storage.ledger import Trial

pytestmark = pytest.mark.slow

RAW = sweep(
    search={"trials": 3, "epochs": 40, "parallelism": 2, "rungs": [40]},
    parameters={"patience": None},
)
ON_TERMINAL = (
    "import os, sys\n"
    "os.login_tty(os.open(sys.argv[1], os.O_RDWR))\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)


class Terminal:
    """A window in which one program runs."""

    def __init__(self) -> None:
        self.window, self._program = pty.openpty()
        self.name = os.ttyname(self._program)
        self.shown = b""
        self._closing = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def close(self) -> None:
        """The kernel tells the program by a SIGHUP."""
        self._closing.set()
        self._reader.join()

    def _read(self) -> None:
        while not self._closing.is_set():
            if select.select([self.window], [], [], 0.05)[0]:
                self.shown += os.read(self.window, 4096)
        os.close(self.window)
        os.close(self._program)


@pytest.fixture
def tiny(tmp_path: Path) -> Sweep:
    return make_sweep(tmp_path / "clone", RAW)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


@contextmanager
def searching(made: Sweep, terminal: Terminal) -> Iterator[subprocess.Popen[str]]:
    """Two workers on the terminal."""
    command = made.start("search", 2, sys.executable, "-c", ON_TERMINAL, terminal.name)
    with no_one_left(command):
        yield command


def asked_to_stop(pid: int) -> bool:
    """Whether a SIGTERM waits for a process that stands still."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    pending = next(line.split()[1] for line in lines if line.startswith("ShdPnd:"))
    return bool(int(pending, 16) >> (signal.SIGTERM - 1) & 1)


def saved_epochs(made: Sweep, trial: Trial) -> int:
    """The epochs of a trial's only checkpoint; 0 without one."""
    epochs = 0
    for path in made.paths.trial(trial.study, trial.number).glob("checkpoint-*"):
        with safe_open(path, "numpy") as file:
            epochs += len(json.loads(file.metadata()["training"])["records"])
    return epochs


def assert_nothing_is_lost(made: Sweep, undisturbed: Sweep) -> None:
    unfinished = [trial for trial in made.trials() if trial.state == "running"]
    assert any(trial.curve for trial in unfinished)
    assert [saved_epochs(made, trial) for trial in unfinished] == [
        len(trial.curve) for trial in unfinished
    ]
    assert made.held() == []
    assert {trial.strikes for trial in made.trials()} == {0}
    with no_one_left(command := made.start("search", 1)):
        assert command.wait(120) == 0, made.errors
    assert undisturbed.worker().work() == 0
    assert made.tables() == undisturbed.tables()


def end(made: Sweep, terminal: Terminal, act: Callable[[], object]) -> None:
    """Starts a search, acts amid a trial, and sees the command and all its workers leave."""
    with searching(made, terminal) as command:
        victim = eventually(lambda: in_midst_of_a_trial(made), "a trial is at work")
        family = children(command.pid)
        act()
        eventually(lambda: asked_to_stop(pid_of(victim)), "the worker is told")
        os.kill(pid_of(victim), signal.SIGCONT)
        assert command.wait(60) == 130
    assert not any(alive(pid) for pid in family)


def test_ctrl_c_ends_the_epochs_and_says_once_how_to_go_on(
    tiny: Sweep, terminal: Terminal, tmp_path: Path
) -> None:
    end(tiny, terminal, lambda: os.write(terminal.window, b"\x03"))
    terminal.close()
    said = terminal.shown.decode()
    assert said.count("nothing is lost: the same command goes on\r\n") == 1, said
    assert "Traceback" not in said
    assert_nothing_is_lost(tiny, make_sweep(tmp_path / "undisturbed", RAW))


def test_a_closed_terminal_ends_the_epochs_and_everyone(
    tiny: Sweep, terminal: Terminal, tmp_path: Path
) -> None:
    end(tiny, terminal, terminal.close)
    assert_nothing_is_lost(tiny, make_sweep(tmp_path / "undisturbed", RAW))


def test_a_worker_that_was_started_by_hand_saves_and_leaves_when_its_terminal_is_closed(
    tiny: Sweep, terminal: Terminal, tmp_path: Path
) -> None:
    tiny.worker()._job.keep(tiny.ledger)
    worker = tiny.start("worker", 1, sys.executable, "-c", ON_TERMINAL, terminal.name)
    with no_one_left(worker):
        eventually(lambda: in_midst_of_a_trial(tiny), "a trial is at work")
        terminal.close()
        os.kill(worker.pid, signal.SIGCONT)
        assert worker.wait(60) == 130
    assert_nothing_is_lost(tiny, make_sweep(tmp_path / "undisturbed", RAW))


def test_a_closed_terminal_is_an_interruption_also_when_mlflow_has_something_to_say(
    tiny: Sweep, terminal: Terminal, tmp_path: Path
) -> None:
    tiny.tracking = "sqlite:///mlflow.db"
    end(tiny, terminal, terminal.close)  # says by what it ends, and that is 130
    tiny.tracking = "none"
    assert_nothing_is_lost(tiny, make_sweep(tmp_path / "undisturbed", RAW))
