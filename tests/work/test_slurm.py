"""Workers as jobs of a real Slurm with two nodes: preempted, at their limit, cut off, cancelled."""

from __future__ import annotations

import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from crews import ROOT, Sweep, eventually, make_sweep, no_one_left, sweep
from postgres import Postgres
from servers import Server

from pipeline.results.states import Kind
from pipeline.study.storage.ledger import Ledger, Trial
from pipeline.study.storage.workers import workers
from pipeline.work.slurm import SCRIPT

if TYPE_CHECKING:
    from cluster import Cluster

pytestmark = pytest.mark.slow
WORKER = """#!/bin/bash
trap 'echo "$SLURM_ARRAY_TASK_ID is told" >> said; exit 130' TERM
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


SLOW = """import sys
if "worker" in sys.orig_argv:
    import time
    from pipeline.vae.training import Training
    run_epoch = Training.run_epoch
    def slow(training, *leaves):
        time.sleep(0.3)
        return run_epoch(training, *leaves)
    Training.run_epoch = slow
"""
# Each node has a disk of its own, which is seen in one place there, and under its name here.
NODE = """#!/bin/sh
cd {nodes}/$SLURMD_NODENAME && exec {python} "$@"
"""


class Head:
    """The host where commands are given: it shares a PostgreSQL with the nodes, and no folder."""

    def __init__(self, cluster: Cluster, made: Sweep, postgres: Postgres):
        self.cluster, self.made, self.postgres = cluster, made, postgres
        folder = made.root.parent
        made.storage, self.ledger = postgres.url, Ledger(postgres.url)
        for node in cluster.nodes:
            (folder / node).mkdir()
            shutil.copytree(made.root / "search_spaces", folder / node / "search_spaces")
            (folder / node / "machine.yaml").write_text("tracking: none\n")
        (folder / "python").write_text(NODE.format(nodes=folder, python=sys.executable))
        (folder / "python").chmod(0o755)
        (folder / "slow").mkdir()
        (folder / "slow" / "sitecustomize.py").write_text(SLOW)
        self.slurm(f"python: {folder}/python", "options: [--cpus-per-task=5]")  # one a node

    def slurm(self, *lines: str) -> None:
        """Its machine.yaml."""
        section = "".join(f"  {line}\n" for line in lines)
        self.made.more = f"storage: {self.made.storage}\nslurm:\n{section}"

    def start(self, stage: str, workers: int = 2, **more: str) -> subprocess.Popen[str]:
        slow = f"{self.made.root.parent}/slow:{ROOT}"
        environment = {"SLURM_CONF": self.cluster.environment["SLURM_CONF"], "PYTHONPATH": slow}
        return self.made.start(stage, workers, **environment, **more)

    @property
    def array(self) -> str:
        """The one array that there is."""
        (found,) = set(self.cluster("squeue", "-h", "-o", "%F").split())
        return found

    def in_midst(self, node: str) -> Trial | None:
        """A trial with an epoch behind it, whose worker is on this node."""
        rows = {row.owner: row.slurm for row in workers(self.ledger, "tiny")}
        there = self.cluster("squeue", "-h", "-r", "-w", node, "-o", "%F_%K").splitlines()
        held = (
            trial for trial in self.made.held(self.ledger) if rows.get(trial.owner or "") in there
        )
        return next((t for t in held if 0 < len(t.curve) < self.made.study.epochs - 2), None)

    def without_storage(self, seconds: float) -> None:
        """The database is away for so long, at least until a worker on a node says so."""
        self.postgres.stop()
        over = time.monotonic() + seconds
        logs, said = self.made.root / "runs" / "state" / "slurm", "waiting for storage"
        eventually(lambda: any(said in log.read_text() for log in logs.iterdir()), "it is met")
        time.sleep(max(over - time.monotonic(), 0.0))
        self.postgres.start()


@pytest.fixture
def head(cluster: Cluster, tmp_path: Path, own_postgres: Postgres) -> Iterator[Head]:
    space = sweep(data={"name": "digits", "limit": 300}, search={"trials": 6})
    made = Head(cluster, make_sweep(tmp_path / "head", space), own_postgres)
    yield made
    made.ledger.close()
    cluster("scancel", "--user=root")


@pytest.fixture
def mlflow(tmp_path: Path) -> Iterator[Server]:
    store = ["--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db"]
    server = Server(tmp_path, [*store, "--artifacts-destination", str(tmp_path / "artifacts")])
    server.start()
    yield server
    server.kill()


def test_a_sweep_without_a_shared_folder_through_all_that_may_befall_it(
    head: Head, mlflow: Server, tmp_path: Path
) -> None:
    """A power cut, a preemption, a database that is away for 5 s, MLflow that is away for a while;
    its command is killed too, and given once more. The nodes prepare the images."""
    made, cluster = head.made, head.cluster
    with no_one_left(made.start("prepare", 1)) as prepared:
        assert prepared.wait() == 0, made.errors
    calm = Sweep(made.root.parent / "calm", made.space)
    shutil.copytree(made.root, calm.root)
    made.tracking = mlflow.uri
    with no_one_left(calm.start("search", 1)) as alone, no_one_left(head.start("search")) as first:
        eventually(lambda: head.in_midst("n2"), "a trial is in work on n2")
        mlflow.kill()
        first.kill()
        cluster.crash("n2")
        cluster.start("n2")
        with no_one_left(head.start("search")) as second:
            eventually(lambda: head.in_midst("n1"), "a trial is in work on n1")
            head.without_storage(seconds=5.0)
            eventually(lambda: head.in_midst("n1"), "a trial is in work on n1")
            other = cluster(
                "sbatch", "--parsable", "-o/dev/null", "-p", "high", "-wn1", "-c8", "--wrap", "exit"
            )
            eventually(lambda: not cluster("squeue", "-h", "-j", other), "it has run")
            for task in range(2):
                with suppress(AssertionError, ValueError):  # it runs already, or has ended
                    cluster("scontrol", "update", f"jobid={head.array}_{task}", "starttime=now")
            mlflow.start()
            assert second.wait() == 0, made.errors
        assert alone.wait() == 0, calm.errors
    assert made.outputs("search") == calm.outputs("search")
    (study,) = head.ledger.studies("tiny", Kind.SEARCH)
    assert max(trial.strikes for trial in head.ledger.trials(study)) == 0
    with no_one_left(made.start("sync", 1)) as sync:  # what the server has missed at the end
        assert sync.wait() == 0, made.errors
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store:
        query = "SELECT COUNT(*) FROM tags WHERE key = 'kind' AND value = 'trial'"
        assert store.execute(query).fetchone() == (6,)


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


def test_a_gpu_that_is_not_granted_ends_the_sweep_in_one_line(head: Head) -> None:
    """The nodes say that they have some, and have none."""
    python = f"python: {head.made.root.parent}/python"
    head.slurm(python, "gres: gpu:1")
    with no_one_left(head.made.start("prepare", 1)) as prepared:
        assert prepared.wait() == 0, head.made.errors
    with no_one_left(head.start("search", 1, PIPELINE_DEVICE="auto")) as command:
        assert command.wait() == 2
    last = head.made.errors.splitlines()[-1]
    assert last.startswith("error: device cuda cannot be used: ")
    assert not head.cluster("squeue", "-h", "-t", "PENDING,RUNNING", "-n", "tiny")
    (study,) = head.ledger.studies("tiny", Kind.SEARCH)
    assert head.ledger.trials(study) == []


def test_ctrl_c_leaves_no_job_behind(head: Head) -> None:
    with no_one_left(head.made.start("prepare", 1)) as prepared:
        assert prepared.wait() == 0, head.made.errors
    with no_one_left(head.start("search")) as command:
        eventually(lambda: head.made.held(head.ledger), "a trial is in work")
        command.send_signal(signal.SIGINT)
        assert command.wait() == 130
    assert "stopping after this step" in head.made.errors
    assert head.cluster("squeue", "-h", "-t", "PENDING,RUNNING") == ""
    assert head.made.held(head.ledger) == []
