"""A private Slurm with two nodes and two fake GPUs each, whose nodes are crashed at will."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from crews import eventually
from surroundings import free_port

CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobcomp.txt
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
SlurmdTimeout=15
SlurmctldTimeout=5
InactiveLimit=0
KillWait=3
UnkillableStepTimeout=10
MinJobAge=300
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
SchedulerType=sched/backfill
OverTimeLimit=0
{nodes}
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=1
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF
"""
NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=8 RealMemory=4000"
    " Gres=gpu:2 State=UNKNOWN"
)


class Cluster:
    """Its daemons keep all they have in `folder`, and listen on the loopback interface."""

    def __init__(self, folder: Path):
        if os.getuid() != 0:
            pytest.skip("a Slurm of our own needs root")
        for program in ("munged", "slurmctld", "slurmd", "sbatch"):
            if not shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin"):
                pytest.skip(f"{program} is not installed: apt-get install slurm-wlm munge")
        self.folder, self.nodes = folder.resolve(), ("n1", "n2")
        self.environment = {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def up(self) -> None:
        """Returns when both nodes are idle."""
        self._write()
        munge = {
            "socket": "socket",
            "key-file": "key",
            "log-file": "log",
            "pid-file": "pid",
            "seed-file": "seed",
        }
        files = [f"--{key}={self.folder}/munge/{name}" for key, name in munge.items()]
        self._daemon("munged", *files, "--num-threads=2", user="munge")
        self._daemon("slurmctld", "-c")
        for node in self.nodes:
            self.start(node)
        eventually(lambda: self.states() == {"idle"}, "both nodes are idle")

    def states(self) -> set[str]:
        """Those of the nodes."""
        return set(self("sinfo", "-hN", "-p", "low", "-o", "%T").split())

    def start(self, node: str) -> None:
        """Starts a node, as after a power cut."""
        self._daemon("slurmd", "-N", node)

    def lose(self, node: str) -> None:
        """The controller reaches the node no longer; what runs there goes on."""
        os.kill(int((self.folder / f"slurmd-{node}.pid").read_text()), signal.SIGKILL)

    def crash(self, node: str) -> None:
        """A power cut, which the controller hears of at once: slurmd first, then its step daemons
        and all that they have started."""
        self.lose(node)
        self._kill_steps(node)
        self("scontrol", "update", f"nodename={node}", "state=down", "reason=crashed")

    def down(self) -> None:
        """Ends all daemons, by the pids that they have left, and all jobs."""
        names = ["slurmctld.pid", *(f"slurmd-{node}.pid" for node in self.nodes), "munge/pid"]
        for node in self.nodes:
            self._kill_steps(node)
        for name in names:
            with suppress(OSError, ValueError):
                pid = int((self.folder / name).read_text())
                os.kill(pid, signal.SIGTERM)
                eventually(lambda pid=pid: not Path(f"/proc/{pid}").exists(), f"{name} has ended")

    def __call__(self, *command: str) -> str:
        """What a program of Slurm prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def _kill_steps(self, node: str) -> None:
        """Which log a step daemon holds open tells whose it is."""
        log = str(self.folder / f"slurmd-{node}.log")
        for step in psutil.process_iter():
            with suppress(psutil.Error):
                if step.name() == "slurmstepd" and any(f.path == log for f in step.open_files()):
                    for each in (step, *step.children(recursive=True)):
                        with suppress(psutil.Error):
                            each.kill()

    def _write(self) -> None:
        folder, host = self.folder, socket.gethostname().split(".")[0]
        for each in ("state", "munge", *(f"spool-{node}" for node in self.nodes)):
            (folder / each).mkdir()
        folder.chmod(0o755)
        (folder / "munge").chmod(0o711)  # its socket is for everyone
        key = folder / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        for path in (folder / "munge", key):
            shutil.chown(path, "munge")
        nodes = [NODE.format(name=node, host=host, port=free_port()) for node in self.nodes]
        text = CONF.format(host=host, folder=folder, port=free_port(), nodes="\n".join(nodes))
        (folder / "slurm.conf").write_text(text)
        gres = ""
        for node in self.nodes:
            for index in range(2):  # devices: of plain files Slurm sets no CUDA_VISIBLE_DEVICES
                os.mknod(folder / f"{node}-gpu{index}", 0o20666, os.makedev(1, 3))
            gres += f"NodeName={node} Name=gpu File={folder}/{node}-gpu[0-1]\n"
        (folder / "gres.conf").write_text(gres)
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")

    def _daemon(self, *command: str, user: str | None = None) -> None:
        with (self.folder / "daemons.out").open("ab") as out:
            subprocess.run(command, env=self.environment, check=True, user=user, stdout=out,
                           stderr=out, stdin=subprocess.DEVNULL, cwd="/")  # fmt: skip
