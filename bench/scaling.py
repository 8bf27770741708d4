"""How a search scales with its workers: real ones on one PostgreSQL, whose epochs only wait.

    python -m bench.scaling --seconds 20 --parts 7

Nothing is trained: an epoch sleeps for its cost on the virtual clock times `--seconds` and has a
made NELBO; all else is what a worker does. Workers are forked from one process that has imported
everything, and begin together once all are there. Printed are, for each number of workers:

- of ideal: the time slept between their beginning and that of the last part, over that time ×
  workers (a search of as many virtual workers has work for all of them until then);
- of the clock: the end of the search on the virtual clock over the time that it took, its tail,
  in which fewer and fewer are at work, included;
- core-seconds a part of the workers and of the server, the parts a second, what a worker waits
  between two parts, and how often it looks, proposes, and was too late to begin what it planned.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar

import psutil

from bench.growth import nelbos
from bench.hardware import hardware, table
from pipeline.results.states import State
from pipeline.seeds import derive_seed
from pipeline.settings.hyperparameters import Value
from pipeline.settings.space import Space, load_space
from pipeline.study.identity import Study, search_study
from pipeline.study.search.plan import Planner
from pipeline.study.search.propose import Proposer
from pipeline.study.storage.ledger import Ledger
from pipeline.study.storage.workers import Presence, arrive
from pipeline.study.watch import Watch
from pipeline.work import trial, worker
from pipeline.work.job import Job
from pipeline.work.owners import owner_name

ROOT = Path(__file__).parents[1]
UNIT = 100  # what an epoch costs on average on the virtual clock
EPOCHS = 8
Fork = multiprocessing.get_context("fork")


@dataclass
class Slept:
    """A training of made values."""

    number: int
    unit: float  # seconds
    epochs: int
    naps: list[tuple[float, float, int, int]]
    late: list[float]
    records: list[dict[str, Any]] = field(default_factory=list)
    first_epoch_that_counts: int = 0
    spent: tuple[float, float] = (0.0, 0.0)

    @property
    def finished(self) -> bool:
        return len(self.records) == self.epochs

    def again(self, epochs: int) -> None:
        """Has these epochs behind it."""
        values = nelbos(self.number, self.epochs)[:epochs]
        self.records = [{"epoch": n, "nelbo_nats": v} for n, v in enumerate(values, 1)]

    def run_epoch(self, _: Callable[[], bool]) -> dict[str, Any]:
        begun = time.monotonic()
        time.sleep(self.unit)
        self.naps.append((begun, self.unit, self.number, len(self.records)))
        self.late.append(time.monotonic() - begun - self.unit)
        self.again(len(self.records) + 1)
        return self.records[-1]


class Sleeper:
    """In place of a worker's `Trainer`."""

    device, shape = "cpu", (1, 28, 28)
    seconds = 0.0  # an epoch of average cost
    naps: ClassVar[list[tuple[float, float, int, int]]] = []  # of this process
    late: ClassVar[list[float]] = []

    def __init__(self, *_: Any, **__: Any):
        self.failures = nullcontext

    def new_training(
        self, study: Study, number: int, chosen: dict[str, Value], _: int | None = None
    ) -> Slept:
        unit = self.cost(chosen) / UNIT * self.seconds
        return Slept(number, unit, study.epochs, self.naps, self.late)

    @staticmethod
    def cost(chosen: dict[str, Value]) -> int:
        """Of an epoch: between 0.4 and 1.6 units, by the parameters."""
        return 40 + derive_seed(0, json.dumps(chosen, sort_keys=True)) % 121

    @staticmethod
    def judge(training: Slept) -> dict[str, Any]:
        best = min(training.records, key=lambda record: record["nelbo_nats"])
        return {**best, "epochs": len(training.records)}


class Epochs:
    """In place of checkpoints: how many epochs a training had."""

    of, overdue = "", False

    def __init__(self, folder: Path, part: int, token: int):
        self._file = folder / "epochs"

    def load(self, training: Slept) -> None:
        if self._file.exists():
            training.again(int(self._file.read_text()))

    def save(self, training: Slept, *, at_once: bool = False) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(str(len(training.records)))

    def clear(self) -> None:
        self._file.unlink(missing_ok=True)


@dataclass
class Spent:
    """What a worker has done, and the core-seconds of it."""

    calls: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)

    def count(self, owner: type, name: str) -> None:
        """Counts the calls of a method from now on."""
        function: Callable[..., Any] = getattr(owner, name)

        @wraps(function)
        def counted(*arguments: Any, **options: Any) -> Any:
            before = time.thread_time()
            try:
                return function(*arguments, **options)
            finally:
                self.calls[name] += 1
                self.seconds[name] += time.thread_time() - before

        setattr(owner, name, counted)


def work(index: int, job: Job, url: str, folder: str, seconds: float, ready: Any, go: Any) -> None:
    """A worker's process."""
    import optuna  # noqa: F401

    spent = Spent()
    for owner, name in (
        (Watch, "refresh"), (Proposer, "propose"), (Ledger, "claim"), (Ledger, "begin"),
        (Ledger, "give"), (Ledger, "fetch"),
        (Ledger, "report"), (Ledger, "finish"), (Ledger, "write"), (Ledger, "read"),
    ):  # fmt: skip
        spent.count(owner, name)
    Sleeper.seconds = seconds
    ledger = Ledger(url)
    presence = Presence(owner_name(os.getpid()))
    arrive(ledger, presence, job.space.name, None)
    made = worker.Worker(job, ledger, Path(folder), "cpu", index, None, presence)
    ready.release()
    go.wait()
    spent.calls.clear()
    spent.seconds.clear()
    cpu, begun = time.process_time(), time.monotonic()
    code = made.work()
    found = {
        "code": code,
        "cpu": time.process_time() - cpu,
        "begun": begun,
        "ended": time.monotonic(),
        "naps": Sleeper.naps,
        "late": sum(Sleeper.late),
        "calls": spent.calls,
        "seconds": spent.seconds,
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    (Path(folder) / f"{index}.json").write_text(json.dumps(found))
    os._exit(0)


def measure(url: str, server: int, workers: int, parts: int, seconds: float) -> dict[str, Any]:
    """A search of so many workers, real and virtual, and of about as many parts."""
    worker.Trainer = Sleeper  # type: ignore[assignment, misc]
    trial.Checkpoints = Epochs  # type: ignore[assignment, misc]
    space = bench_space(workers, parts)
    study = search_study(space, "")
    ledger = Ledger(url)
    ledger.open_study(study.id, space.name, study.kind, study.spec)
    job = Job(stage="search", space=space, studies=[study], candidates={}, lineage={})
    ready, go = Fork.Semaphore(0), Fork.Event()
    folder = tempfile.mkdtemp(prefix="scaling-")
    try:
        crew = [
            Fork.Process(target=work, args=(index, job, url, folder, seconds, ready, go))
            for index in range(workers)
        ]
        ledger.close()
        for each in crew:
            each.start()
        for _ in crew:
            ready.acquire()
        before = cpu_of(server)
        go.set()
        for each in crew:
            each.join()
        served = cpu_of(server) - before
        found = [json.loads((Path(folder) / f"{n}.json").read_text()) for n in range(workers)]
    finally:
        shutil.rmtree(folder)
    return summary(Ledger(url), space, study, found, served, seconds)


def bench_space(workers: int, parts: int) -> Space:
    """The default space with so many virtual workers; of 3 parts 2 begin a trial."""
    space = load_space(ROOT, "fashion")
    search = {**space.search.model_dump(), "trials": parts * 2 // 3, "parallelism": workers}
    return space.model_copy(update={"search": space.search.model_validate(search)})


def summary(
    ledger: Ledger,
    space: Space,
    study: Study,
    found: list[dict[str, Any]],
    served: float,
    seconds: float,
) -> dict[str, Any]:
    """What is printed of a search."""
    parts = ledger.parts(study.id)
    assert all(part.state != State.RUNNING for part in parts)
    planner = Planner(space)
    planner.update(parts)
    assert planner.finished
    begun = min(each["begun"] for each in found)
    wall = time.time() - time.monotonic()
    last = max(part.started_ms for part in parts) / 1000 - wall
    ended = max(each["naps"][-1][0] + each["naps"][-1][1] for each in found if each["naps"])
    slept = sum(
        min(length, max(0.0, last - start)) for each in found for start, length, *_ in each["naps"]
    )
    virtual = max(part.ends for part in parts) / UNIT * seconds
    calls: Counter[str] = Counter()
    core: Counter[str] = Counter()
    for each in found:
        calls.update(each["calls"])
        core.update(each["seconds"])
    count = len(parts)
    new = sum(part.since == 0 for part in parts)
    first = {(n, e): start for each in found for start, _, n, e in each["naps"]}
    waits: dict[str, list[float]] = {"plan": [], "fetch": [], "end": []}
    for part in parts:
        asleep, planned = first[part.trial, part.since], part.started_ms / 1000 - wall
        waits["fetch"].append(asleep - planned)
        if part.follows is not None:
            before = [parts[part.follows].finished_ms or 0, parts[part.number - 1].started_ms]
            waits["plan"].append(planned + wall - max(before) / 1000)
        own = [start + length for each in found for start, length, n, e in each["naps"]
               if n == part.trial and part.since <= e < part.until]  # fmt: skip
        waits["end"].append((part.finished_ms or 0) / 1000 - wall - max(own))
    quantiles = {
        name: [round(sorted(each)[int(q * (len(each) - 1))], 2) for q in (0.1, 0.5, 0.9, 1)]
        for name, each in waits.items()
    }
    mean = sum(length for each in found for _, length, *_ in each["naps"]) / count
    return {
        "workers": len(found),
        "parts": count,
        "wait a part": f"{mean:.1f} s",
        "of ideal": f"{100 * slept / ((last - begun) * len(found)):.1f} %",
        "of the clock": f"{100 * virtual / (ended - begun):.1f} %",
        "core-ms a part": f"{1000 * sum(each['cpu'] for each in found) / count:.0f}",
        "server": f"{1000 * served / count:.0f}",
        "parts/s": f"{count / (ended - begun):.2f}",
        "between two": f"{((last - begun) * len(found) - slept) / count:.2f} s",
        "woken late": f"{sum(each['late'] for each in found) / count:.2f} s",
        "looks a part": f"{calls['refresh'] / count:.1f}",
        "proposals": f"{calls['propose'] / max(1, new):.2f}",
        "too late": f"{(calls['begin'] + calls['give']) / count - 1:.2f}",
        "_core_ms": {name: round(1000 * value / count, 1) for name, value in core.items()},
        "_calls": {name: round(value / count, 2) for name, value in calls.items()},
        "_waits": quantiles,
        "_megabytes": max(each["megabytes"] for each in found),
    }


def cpu_of(pid: int) -> float:
    """The core-seconds of a server, its processes and those that have left."""
    try:
        first = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return 0.0
    total = 0.0
    for each in [first, *first.children(recursive=True)]:
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
        if each is first:
            total += times.children_user + times.children_system
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--parts", type=int, default=12, help="a worker, about")
    parser.add_argument("--seconds", type=float, default=5.0, help="an epoch of average cost")
    parser.add_argument("--why", action="store_true", help="print where the time goes, too")
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from postgres import Postgres

    print(hardware(), flush=True)
    rows = []
    for workers in given.workers:
        folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        try:
            server = Postgres(folder)
            server.start()
            try:
                parts = given.parts * workers
                row = measure(server.url, server.pid, workers, parts, given.seconds)
            finally:
                server.stop()
        finally:
            shutil.rmtree(folder)
        if given.why:
            print({name[1:]: value for name, value in row.items() if name[0] == "_"}, flush=True)
        rows.append({name: str(value) for name, value in row.items() if name[0] != "_"})
        print(table(rows[-1:]), flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
