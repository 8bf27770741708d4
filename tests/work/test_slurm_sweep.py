"""A sweep whose workers are jobs of a real Slurm of two nodes, which share no folder."""

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
from crews import ROOT, Sweep, alive, eventually, make_sweep, no_one_left, pid_of, sweep
from postgres import Postgres
from servers import Server
from worked import SPACE

from pipeline.paths import STAGES
from pipeline.results.states import Kind
from pipeline.study.storage.ledger import Ledger, Trial
from pipeline.study.storage.workers import workers

if TYPE_CHECKING:
    from cluster import Cluster

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("slurm_sweep")]
NOTICE = 600  # seconds before a time limit of 10 minutes or more: none is near
# After an epoch of its own a worker stands still as long as a file with the name of its stage is
# there, or until it is told to leave.
HOLD = """import os, sys
if "worker" in sys.orig_argv and "SLURMD_NODENAME" in os.environ:
    import time
    from pathlib import Path
    from pipeline.vae.training import Training
    job = sys.orig_argv[sys.orig_argv.index("worker") + 1]
    run_epoch, hold = Training.run_epoch, Path(__file__).with_name(job.split("-")[1])
    def held(training, leaves):
        while training.records and hold.exists() and not leaves():
            time.sleep(0.05)
        return run_epoch(training, leaves)
    Training.run_epoch = held
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
        self.hold = folder / "hold"
        self.hold.mkdir()
        (self.hold / "sitecustomize.py").write_text(HOLD)
        for stage in ("search", "retrain"):
            (self.hold / stage).touch()
        one_a_node = "options: [--cpus-per-task=5]"
        self.slurm(f"python: {folder}/python", one_a_node, f"notice: {NOTICE}")

    def slurm(self, *lines: str) -> None:
        """Its machine.yaml."""
        section = "".join(f"  {line}\n" for line in lines)
        self.made.more = f"storage: {self.made.storage}\nslurm:\n{section}"

    def start(self, stage: str, workers: int = 2, **more: str) -> subprocess.Popen[str]:
        path = f"{self.hold}:{ROOT}"
        environment = {"SLURM_CONF": self.cluster.environment["SLURM_CONF"], "PYTHONPATH": path}
        return self.made.start(stage, workers, **environment, **more)

    def tasks(self, stage: str) -> list[str]:
        """Waits for the two of the one array of this stage."""

        def found() -> list[str]:
            jobs = self.cluster("squeue", "-h", "-r", "-o", "%j %F_%K").splitlines()
            return sorted(job.split()[1] for job in jobs if job.startswith(f"tiny-{stage}-"))

        eventually(lambda: len(found()) == 2, "two tasks are there")
        return found()

    def shown(self, task: str, what: str) -> str:
        """What squeue says of a task."""
        return self.cluster("squeue", "-h", "-r", "-j", task, "-o", what)

    def change(self, task: str, what: str) -> None:
        """As an administrator may; not while it is between two states."""
        command = ("scontrol", "update", f"jobid={task}", what)

        def done() -> bool:
            with suppress(AssertionError):
                self.cluster(*command)
                return True
            return False

        eventually(done, " ".join(command))

    def log(self, task: str) -> str:
        log = self.made.root / "runs" / "state" / "slurm" / f"{task}.log"
        return log.read_text() if log.exists() else ""

    def told(self, task: str) -> list[str]:
        """How often its script had begun before, and what its workers were told to leave for."""
        said = rf"^{task} on \w+, (restart \d+)$|^{task}: the worker left with 130: (\w+)$"
        return ["".join(found) for found in re.findall(said, self.log(task), re.M)]

    def in_midst(self, task: str) -> Trial:
        """Waits until the task's living worker has a trial with an epoch behind it."""

        def found() -> Trial | None:
            tasks = {row.owner: row.slurm for row in workers(self.ledger, "tiny")}
            held = (t for t in self.made.held(self.ledger) if t.curve and alive(pid_of(t)))
            return next((each for each in held if tasks.get(each.owner or "") == task), None)

        trial: Trial = eventually(found, f"{task} is in the midst of a trial")
        return trial

    def comes_back(self, task: str, *told: str) -> None:
        """Waits until it is requeued and its script has begun again."""
        eventually(lambda: self.told(task) == list(told), f"{task} is told {told}")

    def cut_power(self, task: str) -> None:
        """Of its node; nobody gives the trial back."""
        trial, node = self.in_midst(task), self.shown(task, "%N")
        self.cluster.crash(node)
        eventually(lambda: not alive(pid_of(trial)), "its worker is dead")
        (now,) = self.ledger.trials(trial.study, [trial.number])
        assert now.owner == trial.owner
        self.cluster.start(node)

    def preempt(self, task: str) -> None:
        """By a job that has more right to its node, and ends."""
        self.in_midst(task)
        there = f"-w{self.shown(task, '%N')}"
        other = self.cluster(
            "sbatch", "--parsable", "-o/dev/null", "-p", "high", there, "-c8", "--wrap", "exit"
        )
        eventually(lambda: not self.cluster("squeue", "-h", "-j", other), "it has run")

    def without_storage(self, task: str, seconds: float) -> None:
        """The database is away for so long, at least until a worker says so. All go on."""
        self.in_midst(task)
        (hold,) = (self.hold / part for part in self.shown(task, "%j").split("-") if part in STAGES)
        self.postgres.stop()
        over = time.monotonic() + seconds
        hold.unlink()
        eventually(lambda: "waiting for storage" in self.log(task), "it is met")
        time.sleep(max(over - time.monotonic(), 0.0))
        self.postgres.start()

    def has_all_befall(self, stage: str) -> None:
        """Power cut, time limit, preemption, database: each in the midst of a trial, and met."""
        first, second = self.tasks(stage)
        self.in_midst(first)
        self.change(first, "timelimit=5")  # minutes; Slurm tells it within 30 s
        self.cut_power(second)
        self.comes_back(second, "restart 0", "restart 1")
        eventually(lambda: "limit" in self.told(first), "it is told of its limit")
        self.change(first, "timelimit=60")
        self.preempt(second)
        self.comes_back(second, "restart 0", "restart 1", "end", "restart 2")
        self.in_midst(first)
        self.without_storage(second, 5.0)


@pytest.fixture
def head(cluster: Cluster, tmp_path: Path, own_postgres: Postgres) -> Iterator[Head]:
    data = {"name": "digits", "limit": 300, "test": {"seed": 0}}
    space = sweep(data=data, search={"trials": 6}, render=SPACE["render"])
    made = Head(cluster, make_sweep(tmp_path / "head", space), own_postgres)
    shutil.rmtree(made.made.paths.runs)
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
    """In the search and in the retraining: a time limit, a power cut, a preemption, a database that
    is away for 5 s. Its command is killed and given once more; MLflow is away from then on, until
    the search is done. The nodes prepare the images."""
    made = head.made
    calm = Sweep(made.root.parent / "calm", made.space)
    shutil.copytree(made.root, calm.root)
    made.tracking = mlflow.uri
    with no_one_left(calm.start("run", 1)) as alone, no_one_left(head.start("run")) as killed:
        for task in head.tasks("search"):
            head.in_midst(task)
        mlflow.kill()
        killed.kill()
        with no_one_left(head.start("run")) as command:
            head.has_all_befall("search")
            mlflow.start()
            head.has_all_befall("retrain")
            assert command.wait() == 0, made.errors
        assert alone.wait() == 0, calm.errors
    assert made.outputs(*STAGES) == calm.outputs(*STAGES)
    trials = [t for kind in Kind for s in head.ledger.studies("tiny", kind)
              for t in head.ledger.trials(s)]  # fmt: skip
    assert max(trial.strikes for trial in trials) == 0
    with no_one_left(made.start("sync", 1)) as sync:  # what the server has missed at the end
        assert sync.wait() == 0, made.errors
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store:
        query = "SELECT COUNT(*) FROM tags WHERE key = 'kind' AND value = 'trial'"
        assert store.execute(query).fetchone() == (6,)


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
    assert not head.cluster("squeue", "-h", "-t", "PENDING,RUNNING")
    (study,) = head.ledger.studies("tiny", Kind.SEARCH)
    assert head.ledger.trials(study) == []


def test_who_is_cancelled_out_of_slurms_sight_leaves_and_ctrl_c_leaves_no_job_behind(
    head: Head,
) -> None:
    """The storage reaches a worker whose node Slurm does not reach."""
    with no_one_left(head.made.start("prepare", 1)) as prepared:
        assert prepared.wait() == 0, head.made.errors
    with no_one_left(head.start("search")) as command:
        first, second = head.tasks("search")
        zombie, node = head.in_midst(second), head.shown(second, "%N")
        head.cluster.lose(node)
        head.cluster("scancel", second)
        eventually(lambda: not alive(pid_of(zombie)), "it has left")
        head.cluster.start(node)
        (now,) = head.ledger.trials(zombie.study, [zombie.number])
        assert (now.owner, now.strikes) == (None, 0)
        head.in_midst(first)
        command.send_signal(signal.SIGINT)
        assert command.wait() == 130
    assert "stopping after this step" in head.made.errors
    assert head.cluster("squeue", "-h", "-t", "PENDING,RUNNING") == ""
    assert head.made.held(head.ledger) == []
