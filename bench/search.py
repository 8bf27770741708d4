"""Core-seconds until a search has found a model: the default sweep, Optuna, random, Ray with ASHA.

    python -m bench.search [--images 60000] [--targets 250 243 240 239] [--seeds 3] [--limit 1200]
                           [--jobs 1] [--blind]

All search the default space on the first `--images` training images of Fashion-MNIST, one trial at
a time. A target is a validation NELBO in nats. Counted are the core-seconds of all processes of a
search, imports and servers included, until an epoch of any of its trials has reached the target; a
search that needs more than `--limit` is ended. Ours runs `python -m pipeline search` and `retrain`;
the others run with the loop that people write, which neither averages weights nor clips gradients
nor starts at the mean image, and once more with our training. `--blind` moves the ranges and
shuffles the choices of the space by the seed, for all, so that its centre is no better than a
guess. `--jobs` searches run at the same time. bench/requirements.txt has Ray.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import yaml

from bench.hardware import hardware, table
from pipeline.paths import Paths
from pipeline.settings.machine import load_machine
from pipeline.study.storage.ledger import Ledger, storage_url

ROOT = Path(__file__).parent.parent
LOOK_SECONDS = 0.5
OURS: dict[str, dict[str, Any]] = {  # with what set in its space
    "this project": {},
    "this project, bf16": {"precision": "bf16"},
}
PEERS = {
    f"{label}, {told}": (search, loop)
    for loop, told in (("plain", "plain loop"), ("ours", "our training"))
    for search, label in (("random", "random"), ("optuna", "Optuna TPE"), ("ray", "Ray ASHA"))
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--targets", type=float, nargs="+", default=[250.0, 243.0, 240.0, 239.0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=1200.0, help="core-seconds of a search")
    parser.add_argument("--jobs", type=int, default=1, help="searches at the same time")
    parser.add_argument("--blind", action="store_true")
    options = parser.parse_args()
    names = [*OURS, *PEERS]
    cases = [(name, seed) for seed in range(options.seeds) for name in names]
    with ThreadPoolExecutor(options.jobs) as pool:
        try:
            runs = list(pool.map(lambda case: search(*case, options), cases))
        finally:
            pool.shutdown(cancel_futures=True)
    spent = dict(zip(cases, runs, strict=True))
    rows = []
    for name in names:
        own = [spent[name, seed] for seed in range(options.seeds)]
        rows.append(row(name, own, options.targets))
    print(table(rows))
    print(f"Medians of {options.seeds} seeds. {hardware()}")


def search(name: str, seed: int, options: argparse.Namespace) -> list[float]:
    """Core-seconds to each target; infinite for those not reached."""
    targets, limit = options.targets, options.limit
    with tempfile.TemporaryDirectory() as temporary:
        folder = checkout(Path(temporary), options, seed, OURS.get(name, {}))
        if name in OURS:
            stages = "for stage in search retrain; do python -m pipeline $stage fashion; done"
            seconds = followed(["sh", "-c", stages], folder, ledger_best(folder), targets, limit)
        else:
            peer, loop = PEERS[name]
            command = ["python", "-m", "bench.peers", peer, loop, str(folder), "--seed", str(seed)]
            seconds = followed(command, folder, progress_best(folder), targets, limit)
    print(f"seed {seed}, {name}: {seconds}", file=sys.stderr, flush=True)
    return seconds


def checkout(folder: Path, options: argparse.Namespace, seed: int, fixed: dict[str, Any]) -> Path:
    """The default space on so many images, prepared; `fixed` are hyperparameters set in it."""
    (folder / "search_spaces").mkdir()
    space = yaml.safe_load((ROOT / "search_spaces" / "fashion.yaml").read_text())
    space["data"]["limit"] = options.images
    space["search"]["seed"] = seed
    if options.blind:
        move(space["parameters"], random.Random(seed))
    space["parameters"] |= fixed
    (folder / "search_spaces" / "fashion.yaml").write_text(yaml.safe_dump(space))
    mirror = load_machine(ROOT).data_mirror or ROOT / "runs" / "state" / "downloads"
    machine = f"{{workers: 1, tracking: none, data_mirror: '{mirror}'}}\n"  # peers train one, too
    (folder / "machine.yaml").write_text(machine)
    command = [sys.executable, "-m", "pipeline", "prepare", "fashion"]
    subprocess.run(command, cwd=folder, env=environment(), check=True, capture_output=True)
    return folder


def move(parameters: dict[str, Any], draws: random.Random) -> None:
    """Draws the order of all choices; log ranges move by up to a factor of 3, others up to half."""
    for domain in parameters.values():
        if isinstance(domain, dict) and "choices" in domain:
            draws.shuffle(domain["choices"])
        elif isinstance(domain, dict) and domain.get("log"):
            factor = 3 ** draws.uniform(-1, 1)
            domain["low"], domain["high"] = domain["low"] * factor, domain["high"] * factor
        elif isinstance(domain, dict):
            steps = (domain["high"] - domain["low"]) // domain["step"]
            shift = draws.randint(0, steps // 2) * domain["step"]
            domain["low"], domain["high"] = domain["low"] + shift, domain["high"] + shift


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
        return min(filter(math.isfinite, map(float, lines)), default=math.inf)

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
