"""An array of workers, as a command sees it by Slurm's programs: here by some that only say so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from crews import ROOT, Sweep, eventually

from pipeline.settings.machine import Machine
from pipeline.study.storage.ledger import LEASE_SECONDS
from pipeline.study.storage.workers import CANCEL, Presence, arrive, send_away, workers
from pipeline.work import slurm
from pipeline.work.slurm import Array, cancel_waiting

SQUEUE = """#!/bin/sh
# Of a name: the numbers of its arrays; of a number: its tasks.
while [ $# -gt 0 ]; do case $1 in -n | -j) cat "$HERE/$2" 2>/dev/null; exit 0 ;; esac; shift; done
"""
SBATCH = """#!/bin/sh
for word; do case $word in --job-name=*) name=${word#*=} ;; esac; done
number=$(($(cat "$HERE"/tiny-* 2>/dev/null | wc -l) + 1))
echo $number >> "$HERE/$name"
echo '0|RUNNING|None|n1' > "$HERE/$number"
echo $number
"""
SCANCEL = """#!/bin/sh
echo "$@" >> "$HERE/cancelled"
"""


class Slurm:
    """Its programs, which keep what they know in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.program("squeue", SQUEUE)
        self.program("sbatch", SBATCH)
        self.program("scancel", SCANCEL)

    def program(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    def shows(self, array: str, *states: str) -> None:
        lines = [f"{index}|{state}|None|n1\n" for index, state in enumerate(states)]
        (self.folder / array).write_text("".join(lines))


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setenv("HERE", f"{tmp_path}/bin")
    monkeypatch.setattr(slurm, "LOOK_SECONDS", 0.0)
    return Slurm(tmp_path / "bin")


def array(tiny: Sweep) -> Array:
    machine = Machine(storage="postgresql://me@there/sweeps", slurm={})  # it is not asked
    return Array(tiny.worker()._job, machine, tiny.root, tiny.ledger, 1, lambda: False)


def test_an_array_at_work_is_found_by_who_comes_back(fake: Slurm, tiny: Sweep) -> None:
    array(tiny).start()
    again = array(tiny)
    again.start()
    assert (again._id, again.alive()) == ("1", 1)
    assert not (fake.folder / "2").exists()


def test_workers_on_another_database_are_not_ours(fake: Slurm, tiny: Sweep, tmp_path: Path) -> None:
    """Of two checkouts of one person that search the same, each with a storage of its own."""
    array(tiny).start()
    tiny.storage = f"sqlite:///{tmp_path}/other.db"
    other = array(tiny)
    other.start()
    assert other._id == "2"
    cancel_waiting([other.job.id], other.ledger)
    assert (fake.folder / "cancelled").read_text() == "--state=PENDING 2\n"


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING"])
def test_whose_workers_are_about_to_leave_is_followed_by_another_one(
    fake: Slurm, tiny: Sweep, state: str
) -> None:
    """`cancel`, or scancel, and the command given again before they have left."""
    array(tiny).start()
    fake.shows("1", state)
    if state == "RUNNING":
        arrive(tiny.ledger, Presence("n1@there/1/1"), "tiny", "1_0")
        send_away(tiny.ledger, "n1@there/1/1")
    again = array(tiny)
    again.start()
    assert (again._id, again.alive()) == ("1", 1)
    fake.shows("1", "COMPLETED")
    assert (again.alive(), again._id, again.alive()) == (1, "2", 1)
    fake.shows("2", "COMPLETED")  # it was not on its way out when it was found: it is not replaced
    assert again.alive() == 0


def test_a_command_that_is_stopped_begins_nothing_more(fake: Slurm, tiny: Sweep) -> None:
    array(tiny).start()
    fake.shows("1", "COMPLETING")
    again = array(tiny)
    again.start()
    again.stop()
    fake.shows("1", "COMPLETED")
    assert again.alive() == 0
    assert not (fake.folder / "2").exists()


def test_what_is_requeued_in_the_end_goes_on(fake: Slurm, tiny: Sweep) -> None:
    array(tiny).start()
    fake.shows("1", "COMPLETING")
    again = array(tiny)
    again.start()
    for state in ("PENDING", "RUNNING", "COMPLETED"):
        fake.shows("1", state)
        again.alive()
    assert (again._id, again.alive()) == ("1", 0)


def test_a_worker_whose_task_does_not_come_to_its_end_is_sent_away(
    fake: Slurm, tiny: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm cannot end a task on a node that it does not reach, nor says so for minutes."""
    now = [1000.0]
    monkeypatch.setattr(slurm.time, "monotonic", lambda: now[0])
    watched = array(tiny)
    watched.start()
    arrive(tiny.ledger, Presence("n1@there/1/1"), "tiny", "1_0")
    for state, seconds, wish in (
        ("RUNNING", 900.0, None),
        ("COMPLETING", 0.0, None),
        ("COMPLETING", LEASE_SECONDS / 3 - 1, None),
        ("COMPLETING", 2.0, CANCEL),
    ):
        now[0] += seconds
        fake.shows("1", state)
        assert watched.alive() == 1
        (row,) = workers(tiny.ledger, "tiny")
        assert row.wish == wish


def test_ctrl_c_does_not_reach_slurms_programs(fake: Slurm) -> None:
    """A terminal sends it to all: sbatch would end, its array be there, and nobody know it."""
    wait = 'touch "$HERE/begun"; while [ ! -e "$HERE/go" ]; do sleep 0.05; done; echo 7'
    fake.program("sbatch", f"#!/bin/sh\n{wait}\n")
    code = (
        "import signal; heard = []\n"
        "signal.signal(signal.SIGINT, lambda *_: heard.append('heard'))\n"
        "from pipeline.work.slurm import _slurm; print(_slurm('sbatch'), *heard)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, text=True, stdout=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    eventually(lambda: (fake.folder / "begun").exists(), "sbatch is at work")
    os.killpg(process.pid, signal.SIGINT)
    (fake.folder / "go").touch()
    assert process.communicate()[0] == "7 heard\n"
