"""Core-seconds until a search has found a model: the default sweep, Optuna, random, Ray with ASHA.

    python -m bench.search [--images 10000] [--targets 260 257 255] [--seeds 1] [--limit 1200]

All search the default space on Fashion-MNIST (its first `--images` training images, or 60000).
A target is a validation NELBO in nats. Counted are the core-seconds of all processes of a search,
imports and servers included, until an epoch of any of its trials has reached the target; a search
that needs more than `--limit` is ended. Ours runs `python -m pipeline search` and `retrain`; the
others run with the loop that people write and once more with our training. bench/requirements.txt
has Ray.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import yaml

from bench.hardware import hardware, table
from pipeline.machine import load_machine
from pipeline.paths import Paths
from pipeline.study.ledger import Ledger, storage_url

ROOT = Path(__file__).parent.parent
LOOK_SECONDS = 0.5
OURS = "this project"
PEERS = {
    f"{label}, {told}": (search, loop)
    for loop, told in (("plain", "plain loop"), ("ours", "our training"))
    for search, label in (("random", "random"), ("optuna", "Optuna TPE"), ("ray", "Ray ASHA"))
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--targets", type=float, nargs="+", default=[260.0, 257.0, 255.0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--limit", type=float, default=1200.0, help="core-seconds of a search")
    options = parser.parse_args()
    spent: dict[str, list[list[float]]] = {name: [] for name in (OURS, *PEERS)}
    for seed in range(options.seeds):
        for name, runs in spent.items():
            runs.append(search(name, seed, options.images, options.targets, options.limit))
            print(f"seed {seed}, {name}: {runs[-1]}", file=sys.stderr)
    print(table([row(name, runs, options.targets) for name, runs in spent.items()]))
    print(f"Medians of {options.seeds} seeds. {hardware()}")


def search(name: str, seed: int, images: int, targets: list[float], limit: float) -> list[float]:
    """Core-seconds to each target; infinite for those not reached."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = checkout(Path(temporary), images, seed)
        if name == OURS:
            stages = "for stage in search retrain; do python -m pipeline $stage fashion; done"
            return followed(["sh", "-c", stages], folder, ledger_best(folder), targets, limit)
        peer, loop = PEERS[name]
        command = ["python", "-m", "bench.peers", peer, loop, str(folder), "--seed", str(seed)]
        return followed(command, folder, progress_best(folder), targets, limit)


def checkout(folder: Path, images: int, seed: int) -> Path:
    """The default space on so many images, prepared."""
    (folder / "search_spaces").mkdir()
    space = yaml.safe_load((ROOT / "search_spaces" / "fashion.yaml").read_text())
    space["data"]["limit"] = images
    space["search"]["seed"] = seed
    (folder / "search_spaces" / "fashion.yaml").write_text(yaml.safe_dump(space))
    mirror = load_machine(ROOT).data_mirror or ROOT / "runs" / "state" / "downloads"
    (folder / "machine.yaml").write_text(f"{{tracking: none, data_mirror: '{mirror}'}}\n")
    command = [sys.executable, "-m", "pipeline", "prepare", "fashion"]
    subprocess.run(command, cwd=folder, env=environment(), check=True, capture_output=True)
    return folder


def followed(
    command: list[str],
    folder: Path,
    best: Callable[[], float],
    targets: list[float],
    limit: float,
) -> list[float]:
    """Runs a command until its best NELBO has reached all targets; core-seconds to each."""
    reached = [math.inf] * len(targets)
    seconds: dict[tuple[int, float], float] = {}  # of every process seen, by pid and start
    with (folder / "log").open("wb") as log:
        process = psutil.Popen(
            command, cwd=folder, env=environment(), stdout=log, stderr=log, start_new_session=True
        )
    try:
        while process.poll() is None and math.inf in reached and sum(seconds.values()) < limit:
            time.sleep(LOOK_SECONDS)
            count(process, seconds)
            value, used = best(), sum(seconds.values())
            reached = [
                min(before, used) if value <= target else before
                for before, target in zip(reached, targets, strict=True)
            ]
        if process.poll():  # a search that cannot run is no slow one
            raise RuntimeError(f"{command} failed:\n{(folder / 'log').read_text()}")
    finally:
        end(process)
    return [round(each, 1) for each in reached]


def count(process: psutil.Popen, seconds: dict[tuple[int, float], float]) -> None:
    """Notes the core-seconds of a process and of its descendants as far as they are used up."""
    for each in family(process):
        try:
            times = each.cpu_times()
            seconds[each.pid, each.create_time()] = times.user + times.system
        except psutil.Error:  # it has just ended; what it had used at the last look is noted
            continue


def family(process: psutil.Popen) -> list[psutil.Process]:
    """A process and its descendants; none once it has ended."""
    try:
        return [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return []


def end(process: psutil.Popen) -> None:
    for each in family(process):
        try:
            each.kill()
        except psutil.Error:
            continue
    process.wait()


def ledger_best(folder: Path) -> Callable[[], float]:
    """The best NELBO of any epoch in the ledger."""
    ledger = Ledger(storage_url(load_machine(folder), Paths(folder, "fashion")))

    def best() -> float:
        studies = [s for kind in ("search", "candidate") for s in ledger.studies("fashion", kind)]
        curves = [trial.curve for study in studies for trial in ledger.trials(study)]
        return min((r["nelbo_nats"] for curve in curves for r in curve), default=math.inf)

    return best


def progress_best(folder: Path) -> Callable[[], float]:
    def best() -> float:
        path = folder / "progress"
        lines = path.read_text().splitlines() if path.exists() else []
        return min(map(float, lines), default=math.inf)

    return best


def environment() -> dict[str, str]:
    """This interpreter's, with the checkout on its path wherever it runs."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PYTHONPATH": str(ROOT), "PATH": path, "OMP_NUM_THREADS": "1"}


def row(name: str, runs: list[list[float]], targets: list[float]) -> dict[str, str]:
    medians = [statistics.median(values) for values in zip(*runs, strict=True)]
    cells = ["not reached" if math.isinf(m) else f"{m:.0f}" for m in medians]
    return {"search": name} | {f"{t:g}": c for t, c in zip(targets, cells, strict=True)}


if __name__ == "__main__":
    main()
