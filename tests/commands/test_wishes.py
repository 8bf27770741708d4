"""`worker`, `cancel`, `pause` and `resume`, as people give them, with real processes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from crews import ROOT, Sweep, children, eventually, no_one_left, pid_of
from surroundings import ARITHMETIC

from pipeline.commands.run_stage import run_stage
from pipeline.commands.worker import _present
from pipeline.errors import Interrupted
from pipeline.settings.machine import Machine
from pipeline.study.storage.workers import CANCEL, PAUSE, Presence, arrive, wish, wished, workers

SLOW = """import sys
if "worker" in sys.orig_argv:
    import time
    from pipeline.vae.training import Training
    run_epoch = Training.run_epoch
    def slow(training, leaves):
        while not leaves():
            time.sleep(0.02)
        return run_epoch(training, leaves)
    Training.run_epoch = slow
"""


def give(made: Sweep, *command: str) -> subprocess.CompletedProcess[str]:
    known = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", **ARITHMETIC}
    line = [sys.executable, "-m", "pipeline", *command]
    return subprocess.run(line, cwd=made.root, env=known, capture_output=True, text=True)


@pytest.fixture
def slow(tmp_path: Path) -> dict[str, str]:
    """The environment of commands whose epochs last until their worker is to leave them."""
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "sitecustomize.py").write_text(SLOW)
    return {"PYTHONPATH": f"{tmp_path / 'slow'}:{ROOT}"}


@pytest.mark.slow
def test_workers_pause_go_on_and_leave_wherever_they_were_started(
    tiny: Sweep, undisturbed: Sweep, slow: dict[str, str], tmp_path: Path
) -> None:
    """One belongs to the command, one was started by hand, in a checkout of its own."""
    other = Sweep(tmp_path / "other", tiny.space, f"sqlite:///{tiny.paths.ledger}")
    shutil.copytree(tiny.root, other.root)
    with no_one_left(tiny.start("search", 1, **slow)) as command:
        eventually(tiny.held, "a trial is in work")
        assert "tiny: 1 worker told to pause" in give(tiny, "pause", "tiny").stdout
        eventually(lambda: not tiny.held(), "nobody holds a trial")
        assert len(children(command.pid)) > 0
        with no_one_left(other.start("worker", 1, **slow)) as by_hand:
            ledger = tiny.ledger
            eventually(lambda: len(workers(ledger, "tiny")) == 2, "the other one is there")
            status = give(tiny, "status", "tiny").stdout
            assert f"workers of tiny: 2: {PAUSE}d" in status
            assert status.count("without work") == 2
            assert give(tiny, "resume", "tiny").returncode == 0
            held = eventually(lambda: len(tiny.held()) == 2 and tiny.held(), "both are at work")
            assert by_hand.pid in {pid_of(trial) for trial in held}
            assert give(tiny, "cancel", "tiny").returncode == 0
            assert by_hand.wait() == 0
            assert command.wait() == 130
        assert "search tiny: cancelled with" in tiny.errors
        assert tiny.held() == []
        assert {row.code for row in workers(tiny.ledger, "tiny")} == {0}
    with no_one_left(tiny.start("search", 1)) as again:
        assert again.wait() == 0, tiny.errors
    assert tiny.tables() == undisturbed.tables()


@pytest.mark.slow
def test_a_cancel_between_two_stages_of_a_command_is_heard(tiny: Sweep) -> None:
    with no_one_left(tiny.start("search", 1)) as command:
        assert command.wait() == 0, tiny.errors
    wish(tiny.ledger, "tiny", CANCEL)
    machine = Machine(workers=1, tracking="none", device="cpu")
    with pytest.raises(Interrupted, match="retrain tiny: cancelled"):
        run_stage("retrain", tiny.space, machine, tiny.paths)
    assert wished(tiny.ledger, "tiny") == CANCEL
    with no_one_left(tiny.start("retrain", 1)) as again:  # this command says otherwise
        assert again.wait() == 0, tiny.errors
    assert wished(tiny.ledger, "tiny") is None


def test_a_sweep_without_a_study_has_nobody_to_tell(tiny: Sweep) -> None:
    done = give(tiny, "pause", "tiny")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: the ledger has no study of tiny: see `python -m pipeline status`\n"
    )


def test_a_worker_without_a_job_or_with_other_code_says_so(tiny: Sweep) -> None:
    done = give(tiny, "worker", "tiny")
    assert done.returncode == 2
    assert done.stderr.startswith("error: worker: the storage has no job tiny: ")
    job = tiny.worker()._job
    job.lineage["code_sha256"] = "0" * 64
    job.keep(tiny.ledger)
    done = give(tiny, "worker", "tiny")
    assert done.returncode == 2
    assert f"the code of job {job.id} is another one than this checkout's" in done.stderr
    (row,) = workers(tiny.ledger, "tiny")
    assert (row.code, row.said) == (2, done.stderr.removeprefix("error: ").strip())


def test_workers_of_one_allocation_leave_each_other_alone(
    tiny: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever gives `run` in a job of Slurm has several; our job script has one at a time."""
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    ledger = tiny.ledger
    job = tiny.worker(ledger)._job
    arrive(ledger, Presence("node@there/1/1"), "tiny", "77")
    with _present(ledger, job, None):
        assert [row.wish for row in workers(ledger, "tiny")] == [None, None]
        assert {row.slurm for row in workers(ledger, "tiny")} == {"77"}
    monkeypatch.setenv("PIPELINE_TASK", "77")
    with _present(ledger, job, None):
        wishes = {row.owner: row.wish for row in workers(ledger, "tiny")}
        assert wishes["node@there/1/1"] == CANCEL
