"""What MLflow costs a trial in core-seconds: without it, with our mirror, with plain calls.

    python -m bench.tracking

Fake trials of one pace and with the same metrics, one after the other, against one local `mlflow
server`: `none` records in the ledger alone, as `tracking: none` does; `mirror` has a process beside
it that sends the ledger to the server; `plain` calls `mlflow.log_metrics` every epoch, as training
scripts do. Imports and first connections are left out of all figures; what the mirror's start and
end cost a command once is stated below the table.
"""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from bench.hardware import hardware, table
from pipeline.paths import Paths
from pipeline.settings.machine import Machine, load_machine
from pipeline.settings.space import Space, load_space
from pipeline.study.identity import Study, search_study
from pipeline.study.storage.claim import Claimant, Plan
from pipeline.study.storage.ledger import Ledger, storage_url
from pipeline.sync import follow
from pipeline.sync.lag import lag_line
from pipeline.sync.mlflow_runs import CURVES
from pipeline.tracking.store import set_environment

EPOCHS, EPOCH_SECONDS = 30, 1.0
SECONDS = EPOCHS * EPOCH_SECONDS  # a trial's
PARAMETERS = {"lr": 1e-3, "latent_dim": 16, "optimizer": "adam", "batch_size": 128}
SPACE = """
data: {name: digits}
parameters: {lr: {low: 1.0e-4, high: 1.0e-2}}
"""
Cost = tuple[float, float, float]  # core-seconds of a trial: worker, mirror, server


def main() -> None:
    """Measures the three and prints them side by side."""
    follow.CATCH_UP_SECONDS = 600.0  # all that the mirror does counts, on a busy machine too
    folder = Path(tempfile.mkdtemp(prefix="bench-tracking-"))
    try:
        with server(folder) as (uri, session):
            sweep = Sweep(folder / "sweep", uri)
            plain = connected(uri)
            costs = {"none": measured(sweep.trial, session), "plain": measured(plain, session)}
            before = children_seconds()
            with sweep.mirrored() as mirror:
                costs["mirror"] = measured(sweep.trial, session, mirror)
            once = children_seconds() - before - costs["mirror"][1]
    finally:
        shutil.rmtree(folder)
    print(
        f"Core-seconds of a trial of {SECONDS:.0f} s, {EPOCHS} epochs with {len(CURVES)} metrics"
        f" each. {hardware()}.\n\n{table(rows(costs))}\n\n"
        f"The mirror's start and end, once a command: {once:.1f} core-seconds."
    )


def fake_trial(report: Callable[[list[dict[str, Any]]], None], pace: float = EPOCH_SECONDS) -> None:
    """The records of one trial, an epoch every `pace` seconds; `report` gets all so far."""
    records: list[dict[str, Any]] = []
    for epoch in range(1, EPOCHS + 1):
        time.sleep(pace)
        values = {name: 100.0 + 1 / (epoch + index) for index, name in enumerate(CURVES)}
        records.append({"epoch": epoch, **values, "ended_ms": int(time.time() * 1000)})
        report(records)


class Sweep:
    """A checkout whose trials are recorded as a worker records them."""

    def __init__(self, root: Path, uri: str):
        (root / "search_spaces").mkdir(parents=True)
        (root / "search_spaces" / "bench.yaml").write_text(SPACE)
        (root / "machine.yaml").write_text(f"tracking: {uri}\n")
        self._paths = Paths(root, "bench")
        self._machine: Machine = load_machine(root)
        self._space: Space = load_space(root, "bench")
        self._study: Study = search_study(self._space, "d" * 64)
        self._ledger = Ledger(storage_url(self._machine, self._paths))
        self._ledger.open_study(self._study.id, "bench", "search", self._study.spec)

    @contextmanager
    def mirrored(self) -> Iterator[int]:
        """A command with its mirror, which has sent a trial already; the mirror's session."""
        before = {child.pid for child in psutil.Process().children()}
        with follow.following(self._space, self._machine, self._paths, "prepare"):
            (mirror,) = {child.pid for child in psutil.Process().children()} - before
            self.trial(pace=0.0)
            while "lacks" in lag_line(self._paths.root, self._space, self._machine, self._ledger):
                time.sleep(1.0)
            yield mirror

    def trial(self, pace: float = EPOCH_SECONDS) -> None:
        number = len(self._ledger.parts(self._study.id))
        plan = Plan(number, number, 0, EPOCHS, 0, None, 1, PARAMETERS, [], 0)
        lease = self._ledger.begin(self._study.id, plan, Claimant("bench"))
        assert lease is not None
        curve: list[dict[str, Any]] = []

        def report(records: list[dict[str, Any]]) -> None:
            curve[:] = records
            self._ledger.report(lease, curve)

        fake_trial(report, pace)
        result = {"nelbo_nats": 100.0, "best_epoch": EPOCHS}
        self._ledger.finish(lease, "complete", curve, result)


def connected(uri: str) -> Callable[[], None]:
    """What a training script does with MLflow's fluent calls, after its first run."""
    import mlflow

    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("plain")
    with mlflow.start_run():
        mlflow.log_params(PARAMETERS)

    def trial() -> None:
        with mlflow.start_run():
            mlflow.log_params(PARAMETERS)
            fake_trial(log)

    def log(records: list[dict[str, Any]]) -> None:
        last = {name: records[-1][name] for name in CURVES}
        mlflow.log_metrics(last, step=records[-1]["epoch"])

    return trial


def measured(work: Callable[[], None], server: int, mirror: int | None = None) -> Cost:
    """Core-seconds of this process, the mirror's session and the server's."""

    def used() -> Cost:
        return (
            time.process_time(),
            session_seconds(mirror) if mirror else 0.0,
            session_seconds(server),
        )

    before = used()
    work()
    worker, mirrored, served = (b - a for a, b in zip(before, used(), strict=True))
    return worker, mirrored, served


def children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def session_seconds(session: int) -> float:
    """Core-seconds so far of the living processes of a session."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:  # it has just ended
            continue
        if int(fields[3]) == session:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def server(folder: Path) -> Iterator[tuple[str, int]]:
    """The URL and the session of an `mlflow server` that lives as long as the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{probe.getsockname()[1]}"
    argv = [sys.executable, "-m", "mlflow", "server", "--port", uri.rsplit(":", 1)[1]]
    argv += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    argv += ["--artifacts-destination", f"{folder}/artifacts"]
    set_environment()
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "60"  # as busy as this machine may be
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
    try:
        while not answers(f"{uri}/health"):
            time.sleep(0.2)
        yield uri, process.pid
    finally:
        process.terminate()
        process.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10):
            return True
    except OSError:
        return False


def rows(costs: dict[str, Cost]) -> list[dict[str, str]]:
    """One for each way."""
    return [
        {
            "way": name,
            "worker": f"{worker:.3f}",
            "mirror": f"{mirror:.3f}",
            "both, of the trial": f"{(worker + mirror) / SECONDS:.2%}",
            "server": f"{served:.3f}",
        }
        for name, (worker, mirror, served) in costs.items()
    ]


if __name__ == "__main__":
    main()
