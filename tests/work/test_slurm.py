"""Workers as jobs of a real Slurm with two nodes: preempted, at their limit, cut off, cancelled."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from crews import ROOT, eventually, no_one_left

from pipeline.work.slurm import SCRIPT

if TYPE_CHECKING:
    from cluster import Cluster

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("slurm")]
WORKER = """#!/bin/bash
trap 'echo "$SLURM_ARRAY_TASK_ID is told" >> said; busy; exit 130' TERM
busy() { while [ -e "busy$SLURM_ARRAY_TASK_ID" ]; do sleep 0.05; done; }
echo "$SLURM_ARRAY_TASK_ID begins, after ${8:-nothing}" >> said
[ -e "code$SLURM_ARRAY_TASK_ID" ] && { read -r code < "code$SLURM_ARRAY_TASK_ID"; exit "$code"; }
while :; do sleep 0.05; done
"""


class Jobs:
    """Arrays of our job script whose workers are scripts, in a checkout of its own."""

    def __init__(self, cluster: Cluster, folder: Path):
        self.cluster, self.folder, self.id = cluster, folder, ""
        (folder / "search_spaces").mkdir(parents=True)
        (folder / "worker").write_text(WORKER)
        (folder / "worker").chmod(0o755)
        (folder / "said").touch()

    def submit(self, *options: str, checkout: Path | None = None) -> None:
        export = f"--export=ALL,PIPELINE_PYTHON={self.folder}/worker"
        command = ["sbatch", "--parsable", export, *options, str(SCRIPT), "job"]
        self.id = self.cluster(*command, str(checkout or self.folder))

    def said(self, line: str, times: int = 1) -> None:
        """Waits until workers have said this so often."""
        lines = self.folder / "said"
        eventually(lambda: lines.read_text().splitlines().count(line) >= times, line)

    def state(self, task: int) -> str:
        return self.cluster(
            "squeue", "-h", "-r", "-t", "all", "-j", f"{self.id}_{task}", "-o", "%T"
        )


@pytest.fixture
def jobs(cluster: Cluster, tmp_path: Path) -> Iterator[Jobs]:
    made = Jobs(cluster, tmp_path / "node")
    yield made
    cluster("scancel", "--user=root")


def test_before_its_time_limit_a_task_is_requeued_alone(jobs: Jobs) -> None:
    jobs.submit("--array=0-1")
    jobs.said("0 begins, after nothing")
    jobs.said("1 begins, after nothing")
    jobs.cluster("scancel", "--batch", "--signal=USR1", f"{jobs.id}_1")  # as --signal=B:USR1 does
    jobs.said("1 is told")
    eventually(lambda: jobs.state(1) == "PENDING", "it is requeued")
    assert jobs.state(0) == "RUNNING"
    jobs.cluster("scontrol", "update", f"jobid={jobs.id}_1", "starttime=now")
    jobs.said("1 begins, after nothing", times=2)
    said = (jobs.folder / "said").read_text()
    assert "0 is told" not in said


def test_a_preempted_task_comes_back_and_a_cancelled_one_never(jobs: Jobs) -> None:
    jobs.submit("--array=0-1", "--cpus-per-task=8")  # a node each
    jobs.said("0 begins, after nothing")
    jobs.said("1 begins, after nothing")
    jobs.cluster("scancel", f"{jobs.id}_1")
    jobs.said("1 is told")
    other = jobs.cluster(
        "sbatch", "--parsable", "-o/dev/null", "-p", "high", "-N2", "-c8", "--wrap", "sleep 60"
    )
    jobs.said("0 is told")
    eventually(lambda: jobs.state(0) == "PENDING", "it is requeued")
    eventually(lambda: jobs.state(1) == "CANCELLED", "it is gone")
    jobs.cluster("scancel", other)
    jobs.cluster("scontrol", "update", f"jobid={jobs.id}_0", "starttime=now")
    jobs.said("0 begins, after nothing", times=2)
    assert jobs.state(1) == "CANCELLED"


def test_who_is_cancelled_while_it_saves_before_its_limit_is_gone(jobs: Jobs) -> None:
    (jobs.folder / "busy0").touch()
    jobs.submit("--array=0-0")
    jobs.said("0 begins, after nothing")
    jobs.cluster("scancel", "--batch", "--signal=USR1", f"{jobs.id}_0")
    jobs.said("0 is told")
    jobs.cluster("scancel", f"{jobs.id}_0")
    eventually(lambda: jobs.state(0) in ("CANCELLED", "PENDING"), "it has ended")
    assert jobs.state(0) == "CANCELLED"


def test_who_has_not_left_by_its_limit_is_requeued_all_the_same(jobs: Jobs) -> None:
    (jobs.folder / "busy0").touch()
    jobs.submit("--array=0-0", "--time=10")
    jobs.said("0 begins, after nothing")
    soon = time.strftime("%FT%T", time.localtime(time.time() + 1.0))
    jobs.cluster("scontrol", "update", f"jobid={jobs.id}_0", f"endtime={soon}")
    jobs.said("0 begins, after nothing", times=2)


def test_what_a_worker_has_left_with_is_known_though_a_signal_came(tmp_path: Path) -> None:
    """Bash's `wait` ends with the signal; by the next look the worker has ended as well."""
    (tmp_path / "search_spaces").mkdir()
    worker, late = tmp_path / "worker", tmp_path / "late"
    worker.write_text("#!/bin/sh\ntrap 'exit 3' TERM\ntouch begun\nwhile :; do sleep 0.05; done\n")
    worker.chmod(0o755)
    late.write_text('kill() { builtin kill "$@" && while builtin kill -0 "$2"; do :; done; }')
    known = {"SLURM_JOB_ID": "7", "PIPELINE_PYTHON": str(worker), "BASH_ENV": str(late)}
    process = subprocess.Popen(
        ["bash", str(SCRIPT), "job", str(tmp_path)], text=True, env={**os.environ, **known}
    )
    with no_one_left(process):
        eventually((tmp_path / "begun").exists, "the worker is there")
        process.terminate()
        log = tmp_path / "runs" / "state" / "slurm" / "7.log"
        eventually(lambda: "the worker left with 3: end" in log.read_text(), "it is known")


def test_what_a_worker_leaves_with_decides_what_becomes_of_its_task(jobs: Jobs) -> None:
    """Input that is wrong ends it, a crash begins another worker, which is told of it, and who is
    told to leave by its command leaves for good."""
    (jobs.folder / "code0").write_text("2\n")
    (jobs.folder / "code1").write_text("139\n")
    jobs.submit("--array=0-2")
    eventually(lambda: jobs.state(0) == "FAILED", "it has failed")
    jobs.said("1 begins, after nothing")
    (jobs.folder / "code1").unlink()
    jobs.said("1 begins, after 139")
    jobs.said("2 begins, after nothing")
    jobs.cluster("scancel", "--batch", "--signal=USR2", f"{jobs.id}_2")
    eventually(lambda: jobs.state(2) == "COMPLETED", "it has left for good")
    assert jobs.state(1) == "RUNNING"


def test_a_node_without_the_checkout_says_so(jobs: Jobs, tmp_path: Path) -> None:
    jobs.submit("--array=0-0", checkout=tmp_path)
    eventually(lambda: jobs.state(0) == "FAILED", "it has failed")
    assert "ExitCode=78:0" in jobs.cluster("scontrol", "-o", "show", "job", f"{jobs.id}_0")


def test_the_line_by_hand_is_taken(cluster: Cluster) -> None:
    page = (ROOT / "docs" / "cluster.md").read_text()
    (line,) = re.findall(r"^ {4}sbatch (.*)$", page, re.M)
    env = cluster.environment
    command = ["sbatch", "--test-only", *line.split()]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "to start at" in done.stderr


def test_shellcheck_has_nothing_to_say() -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", str(SCRIPT)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
