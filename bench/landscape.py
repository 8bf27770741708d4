"""What policies find on landscapes that are drawn from recorded learning curves.

    python -m bench.landscape [--table FILE] [--landscapes 20] [--first 0] [--workers 4]
                              [--observations FILE | --agree 0.8]

`FILE` (bench/landscape-fashion.csv) has a row an epoch of real trainings: 205 of this project's, of
179 settings of a wide space on 10 000 Fashion-MNIST images for 16 epochs, and 26 repeats. A
Gaussian process on the principal components of the curves' logarithms gives *landscapes*: each is a
function from a setting to its curve and the cost of an epoch, with the noise between seeds that was
recorded. On each, every policy searches for as long as 40 trainings take, idling included; nothing
is trained. Ours is the project's planner and proposer as they are.

Printed is the regret in nats, above the landscape's best, of the model in hand (the best value that
has been seen): after 10, 20 and 40 trainings, and its mean over trainings 1 to 40 (area); the share
of time that workers idle; the end, without noise, of the better of the two settings that would be
retrained; all as medians over landscapes; and the ratio of the areas to the first policy's with a
95 % bootstrap interval.

*informed* begins with observations of other data, *misled* with the same, their ranks reversed:
those of a table of kept trials (bench/mnist.trials.jsonl: 40 of this very space on 11 000 MNIST
images, from a search by rungs) or, with `--agree R`, 40 random settings, ranked by R times what the
landscape gives plus √(1 − R²) times a function that is drawn from the kernel alone, both brought to
normal ranks.
"""

from __future__ import annotations

import argparse
import heapq
import math
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np

from bench.observations import of_file, simulated
from bench.policies import POLICIES, Policy
from bench.surrogate import Array, Landscape, Table
from pipeline.settings.space import load_space

ROOT = Path(__file__).parents[1]
TRAININGS = 40


@dataclass(frozen=True)
class Outcome:
    """What a policy came to: (time, value) whenever the model in hand got better, and idling."""

    hand: list[tuple[float, float]]
    idle: float
    final: float  # the noise-free end of what would be retrained, above the best

    def regret(self, time: float, best: float) -> float:
        """Of the model in hand at a time."""
        values = [value for when, value in self.hand if when <= time]
        return values[-1] - best if values else math.nan


def play(policy: Policy, land: Landscape, workers: int) -> Outcome:
    """Runs a policy on real workers until the time of `TRAININGS` trainings is spent."""
    end = TRAININGS * land.epochs * land.mean_cost / workers
    now, busy, number = 0.0, 0.0, 0
    free = workers
    events: list[tuple[float, int, Any]] = []
    hand: list[tuple[float, float]] = []
    curves: dict[int, Array] = {}
    while True:
        while free and (job := policy.ask()):
            if job.trial not in curves:
                curves[job.trial] = land.train(job.setting, job.trial)
            cost = land.cost(job.setting)
            number += 1
            heapq.heappush(events, (now + cost, number, (job, job.since + 1, cost)))
            free -= 1
        if not events:
            break
        now, _, (job, epoch, cost) = heapq.heappop(events)
        if now > end:
            break
        busy += cost
        value = float(curves[job.trial][epoch - 1])
        if not hand or value < hand[-1][1]:
            hand.append((now, value))
        if policy.report(job, epoch, value) or epoch >= land.epochs:
            free += 1
        else:
            number += 1
            heapq.heappush(events, (now + cost, number, (job, epoch + 1, cost)))
    top = policy.top()
    final = float(land.curves(top)[:, -1].min()) - land.best if top else math.nan
    return Outcome(hand, 1 - busy / (workers * min(now, end)), final)


def _one(arguments: tuple[Path, str, int, int, Path | float]) -> tuple[str, int, list[float]]:
    table_file, name, number, workers, told = arguments
    land = Landscape(_table(table_file), number)
    space = load_space(ROOT / "bench", "landscape")
    land.observations = (
        of_file(told, space) if isinstance(told, Path) else simulated(land, space, told)
    )
    outcome = play(POLICIES[name](space, land, workers), land, workers)
    unit = land.epochs * land.mean_cost / workers
    curve = [outcome.regret(n * unit, land.best) for n in range(1, TRAININGS + 1)]
    filled = [value if not math.isnan(value) else 60.0 for value in curve]
    return name, number, [filled[9], filled[19], filled[39], float(np.mean(filled)), outcome.idle,
                          outcome.final]  # fmt: skip


@cache
def _table(file: Path) -> Table:
    return Table(file)


def _interval(areas: Array, base: Array) -> tuple[float, float]:
    """Of the ratio of the mean areas, by drawing landscapes anew."""
    draw = np.random.default_rng(0)
    picks = draw.integers(0, len(areas), (2000, len(areas)))
    means = areas[picks].mean(axis=1) / base[picks].mean(axis=1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, default=ROOT / "bench" / "landscape-fashion.csv")
    parser.add_argument("--landscapes", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="number of the first landscape")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), choices=list(POLICIES))
    parser.add_argument("--observations", type=Path, default=ROOT / "bench" / "mnist.trials.jsonl")
    parser.add_argument("--agree", type=float, help="simulated observations instead: 1 agree, -1")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    _table(options.table)
    numbers = range(options.first, options.first + options.landscapes)
    told = options.observations if options.agree is None else options.agree
    each = [(n, name) for n in numbers for name in options.policies]
    jobs = [(options.table, name, n, options.workers, told) for n, name in each]
    found: dict[str, dict[int, list[float]]] = defaultdict(dict)
    with Pool(options.processes) as pool:
        for name, number, figures in pool.imap_unordered(_one, jobs):
            found[name][number] = figures
    heads = ("@10", "@20", "@40", "area", "idle", "final")
    print(f"{'policy':24}", *(f"{head:>6}" for head in heads), " ratio of areas (95 %), median")
    base = found[options.policies[0]]
    for name in options.policies:
        rows = np.array([found[name][n] for n in numbers])
        middle = np.median(rows, axis=0)
        areas = rows[:, 3], np.array([base[n][3] for n in numbers])
        low, high = _interval(*areas)
        print(
            f"{name:24}",
            *(f"{value:6.2f}" for value in middle),
            f" {areas[0].mean() / areas[1].mean():.2f} ({low:.2f} … {high:.2f}),"
            f" {np.median(areas[0] / areas[1]):.2f}",
        )


if __name__ == "__main__":
    main()
