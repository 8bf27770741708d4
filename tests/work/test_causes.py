"""Faults of the machine in real workers: what they compute in the end is as if nothing had been."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from crews import ROOT, Sweep, no_one_left

from pipeline.work.causes import MACHINE_FAILED, exit_code

FAULT = """
import sys
if "worker" in sys.orig_argv:
    from pathlib import Path
    from pipeline.vae.training import Training
    run_epoch, times = Training.run_epoch, Path({times!r})

    def fail(training, *leaves):
        done = len(times.read_text()) if times.exists() else 0
        if len(training.records) == 1 and done < {often}:
            times.write_text("x" * (done + 1))
            raise {error}
        return run_epoch(training, *leaves)

    Training.run_epoch = fail
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "often"),
    [("OSError(5, 'Input/output error')", 2), ("MemoryError('3 GiB')", 1)],
)
def test_a_fault_of_the_machine_changes_no_byte(
    error: str, often: int, tiny: Sweep, undisturbed: Sweep, tmp_path: Path
) -> None:
    faults = tmp_path / "faults"
    faults.mkdir()
    text = FAULT.format(error=error, often=often, times=str(tmp_path / "times"))
    (faults / "sitecustomize.py").write_text(text)
    command = tiny.start("search", 2, PYTHONPATH=f"{faults}:{ROOT}")
    with no_one_left(command):
        assert command.wait(240) == 0, tiny.errors
    assert (tmp_path / "times").read_text() == "x" * often
    assert tiny.tables() == undisturbed.tables()
    assert {trial.strikes for trial in tiny.trials()} == {0}


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.EIO, MACHINE_FAILED),
        (errno.ESTALE, MACHINE_FAILED),
        (errno.ENODEV, MACHINE_FAILED),
        (errno.ENOSPC, None),
        (errno.EROFS, None),
    ],
)
def test_what_may_pass_is_another_workers_to_try_again_and_the_rest_a_persons(
    number: int, code: int | None
) -> None:
    assert exit_code(OSError(number, os.strerror(number))) == code
