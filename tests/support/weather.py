"""Two hosts in bad weather: a PostgreSQL that is restarted at random, an MLflow server that is away
half of the time, kill -9 of workers and crews. Their bytes are compared with a calm run's.

    PYTHONPATH=. python tests/support/weather.py --minutes 20

A host is a process and host-name namespace of its own (root is needed), with a checkout of its own.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg
from crews import ROOT, make_sweep, sweep
from postgres import Postgres
from servers import Server
from surroundings import ARITHMETIC

from pipeline.study.storage.claim import MAX_STRIKES

STAGES = ("search", "retrain")


def work(trials: int, epochs: int) -> dict[str, Any]:
    """A sweep of so many trials."""
    return sweep(
        parameters={"patience": None},
        search={"trials": trials, "epochs": epochs, "parallelism": 4, "min_epochs": 10},
        retrain={"top": 1, "seeds": 2, "epochs": epochs},
    )


LONG, SHORT = work(6, 30), work(3, 12)
LIMIT = 600.0  # seconds that a stage may take beyond the weather


@dataclass
class Weather:
    """What falls on the hosts until `end`, and at least once, and how often it did."""

    postgres: Postgres
    rng: random.Random
    end: float
    mlflow: Server | None
    blows: tuple[float, float]
    restarts: int = 0
    outages: int = 0
    kills: int = 0
    compared: int = 0  # files
    calm: threading.Event = field(default_factory=threading.Event)

    def over(self) -> bool:
        struck = self.restarts and self.kills
        return self.calm.is_set() or bool(struck and time.monotonic() >= self.end)

    def restart_postgres(self, shortest: float, longest: float) -> None:
        while not self.calm.wait(self.rng.uniform(shortest, longest)) and not self.over():
            self.postgres.stop()
            time.sleep(self.rng.uniform(0.0, 4.0))
            self.postgres.start()
            self.restarts += 1

    def switch_mlflow(self, seconds: float) -> None:
        assert self.mlflow is not None
        while not self.over():
            self.mlflow.start()
            self.calm.wait(seconds)
            self.mlflow.kill()
            self.outages += 1
            self.calm.wait(seconds)


class Host:
    """A checkout and a place of its own to run its commands in."""

    def __init__(
        self, root: Path, name: str, raw: dict[str, Any], storage: str, tracking: str, workers: int
    ):
        self.made = make_sweep(root, raw)
        self._workers = workers
        self.name, self._storage, self._tracking = name, storage, tracking
        inside = f"hostname {name} && echo up && exec cat"  # which ends with us, however we end
        self._init = subprocess.Popen(
            ["unshare", "--pid", "--fork", "--mount-proc", "--uts", "sh", "-c", inside],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._init.stdout is not None
        assert self._init.stdout.readline() == "up\n", "namespaces need root"
        (self._first,) = psutil.Process(self._init.pid).children()

    def start(self, stage: str) -> subprocess.Popen[str]:
        text = f"device: cpu\ntracking: {self._tracking}\nstorage: {self._storage}\n"
        (self.made.root / "machine.yaml").write_text(f"workers: {self._workers}\n{text}")
        enter = ["nsenter", "-t", str(self._first.pid), "-p", "-m", "-u",
                 f"--wd={self.made.root}"]  # fmt: skip
        with (self.made.root / "stderr.txt").open("a") as errors:
            return subprocess.Popen(
                [*enter, sys.executable, "-m", "pipeline", stage, "tiny"],
                cwd=self.made.root,
                env=ARITHMETIC
                | {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(self.made.root)},
                stderr=errors,
                text=True,
            )

    def close(self) -> None:
        for process in [self._first, psutil.Process(self._init.pid)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._init.communicate()


def run_through(host: Host, stage: str, weather: Weather, strikes: Callable[[], int]) -> int:
    """Gives the same command until it is done; how often it was given."""
    starts, end = 0, max(weather.end, time.monotonic()) + LIMIT
    while time.monotonic() < end:
        command, starts = host.start(stage), starts + 1
        blow = time.monotonic() + weather.rng.uniform(*weather.blows)
        while command.poll() is None and time.monotonic() < end:
            if time.monotonic() > blow and not weather.over():
                blow = time.monotonic() + weather.rng.uniform(*weather.blows)
                _strike(command, weather, strikes)
            time.sleep(0.05)
        if command.returncode == 0:
            return starts
        if command.returncode is None:
            command.kill()
            break
        away = command.returncode == 2 and " is away for " in host.made.errors.splitlines()[-1]
        if not away and command.returncode not in (128 + signal.SIGKILL, -signal.SIGKILL):
            raise AssertionError(f"{stage}: exit code {command.returncode}:\n{host.made.errors}")
    raise AssertionError(f"{host.name}: {stage} is not done:\n{host.made.errors}")


def _strike(command: subprocess.Popen[str], weather: Weather, strikes: Callable[[], int]) -> None:
    """Kills a worker, the crew or both, unless a trial has two deaths to its name."""
    if strikes() >= MAX_STRIKES - 1:
        return
    with suppress(psutil.NoSuchProcess):
        crew = psutil.Process(command.pid).children()
        workers = [p for each in crew for p in each.children() if "worker" in p.cmdline()]
        blow = weather.rng.choice(["worker", "worker", "crew", "all"])
        victims = {
            "worker": workers[:1] and [weather.rng.choice(workers)],
            "crew": crew,
            "all": [*workers, *crew],
        }[blow]
        for victim in victims:
            victim.kill()
            weather.kills += 1


def most_strikes(url: str) -> int:
    """Of any trial at work; as many as forbid a blow while the database is away."""
    try:
        with psycopg.connect(url, connect_timeout=5) as db:
            row = db.execute("SELECT max(strikes) FROM trials WHERE state = 'running'").fetchone()
            return (row and row[0]) or 0
    except psycopg.Error:
        return MAX_STRIKES


def outputs_of_a_calm_run(folder: Path, raw: dict[str, Any]) -> dict[str, bytes]:
    made = make_sweep(folder, raw)
    for stage in STAGES:
        assert made.start(stage, 1).wait(LIMIT) == 0, made.errors
    return made.outputs(*STAGES)


def one_round(
    folder: Path,
    weather: Weather,
    database: str,
    calm: Callable[[], dict[str, bytes]],
    raw: dict[str, Any],
    workers: int,
) -> str:
    """Both hosts work on one sweep in a fresh database; what that came to. AssertionError if a
    byte differs."""
    with psycopg.connect(weather.postgres.url, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {database}".encode())
    url = weather.postgres.url.replace("/postgres", f"/{database}")
    tracking = weather.mlflow.uri if weather.mlflow else "none"
    hosts = [
        Host(folder / f"{database}-{name}", name, raw, url, tracking, workers)
        for name in ("east", "west")
    ]
    starts: dict[str, list[int]] = {}
    failures: list[BaseException] = []

    def go_through(host: Host) -> None:
        try:
            starts[host.name] = [
                run_through(host, stage, weather, lambda: most_strikes(url)) for stage in STAGES
            ]
        except BaseException as error:
            failures.append(error)

    try:
        threads = [threading.Thread(target=go_through, args=(host,)) for host in hosts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        for host in hosts:
            host.close()
    if failures:
        raise failures[0]
    wanted = calm()
    for host in hosts:
        outputs = host.made.outputs(*STAGES)
        assert "Traceback" not in host.made.errors, host.made.errors
        different = [name for name in wanted if outputs.get(name) != wanted[name]]
        assert not different, f"{different}\n{host.made.errors}"
        assert outputs.keys() == wanted.keys()
        weather.compared += len(wanted)
        shutil.rmtree(host.made.root)
    return f"{database}: the bytes of a calm run on both hosts; commands given {starts}"


def storm(
    minutes: float,
    seed: int,
    *,
    mlflow: bool,
    pauses: tuple[float, float],
    blows: tuple[float, float],
    raw: dict[str, Any] = LONG,
    workers: int = 2,
) -> Weather:
    """Rounds of two hosts until the time is up; the last one ends in calm. `pauses` are those of
    PostgreSQL between two restarts, `blows` those between two kills, in seconds."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="weather-")))
        folder.chmod(0o755)
        (folder / "postgres").mkdir()
        postgres = Postgres(folder / "postgres")
        postgres.start()
        stack.callback(postgres.stop)
        pool = stack.enter_context(ThreadPoolExecutor())
        calm = pool.submit(outputs_of_a_calm_run, folder / "calm", raw)
        server = None
        if mlflow:
            store = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
            server = Server(folder, [*store, "--artifacts-destination", str(folder / "artifacts")])
            stack.callback(server.kill)
        end = time.monotonic() + minutes * 60
        weather = Weather(postgres, random.Random(seed), end, server, blows)
        threads = [threading.Thread(target=weather.restart_postgres, args=pauses)]
        if server:
            threads.append(threading.Thread(target=weather.switch_mlflow, args=(30.0,)))
        for thread in threads:
            thread.start()
        try:
            number = 0
            while number == 0 or not weather.over():
                said = one_round(folder, weather, f"round{number}", calm.result, raw, workers)
                print(said, flush=True)
                number += 1
        finally:
            weather.calm.set()
            for thread in threads:
                thread.join()
        return weather


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    weather = storm(
        options.minutes, options.seed, mlflow=True, pauses=(10.0, 40.0), blows=(8.0, 40.0)
    )
    print(
        f"{options.minutes:.0f} minutes: PostgreSQL restarted {weather.restarts} times, MLflow away"
        f" {weather.outages} times, {weather.kills} processes killed; {weather.compared} files are"
        " those of a calm run"
    )


if __name__ == "__main__":
    main()
