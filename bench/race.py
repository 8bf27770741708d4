"""How often the race of candidates crowns the wrong one, and what it costs.

    python -m bench.race [--table FILE] [--races 600] [--rungs 8 12]

Of the better 60 % of the settings in FILE (bench/landscape-fashion.csv), 24 are drawn with the
noise between seeds that was recorded; the 2 to 5 best at epoch 8 of 16 race, by the project's
own function, with new noise on every seed. Printed: the epochs against training all seeds in full,
the share of races whose winner is more than 0.25 nats behind a candidate that it was not said to
equal, and of those that end in a tie. The curves' means are taken for the truth.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.study.confirmation.race import Rules, Run, replay

FILE = Path(__file__).with_name("landscape-fashion.csv")
EPOCHS, SEARCHED, SETTINGS, SEEDS = 16, 8, 24, 3
BETTER, TIE = 0.6, 0.25  # share of settings; nats
Array = NDArray[np.float64]


def read(file: Path) -> tuple[list[Array], Array]:
    """The mean curves of the better settings, and deviations of seeds from their means."""
    curves: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    with file.open() as lines:
        for row in csv.DictReader(lines):
            curves[row["setting"], row["seed"]][int(row["epoch"])] = float(row["nelbo_nats"])
    settings: dict[str, list[list[float]]] = defaultdict(list)
    for (setting, _), found in curves.items():
        if len(found) == EPOCHS:
            settings[setting].append([found[epoch] for epoch in range(1, EPOCHS + 1)])
    best = [np.minimum.accumulate(each, axis=1) for each in settings.values()]
    means = [each.mean(axis=0) for each in best]
    noise = [
        (each - mean) * math.sqrt(len(each) / (len(each) - 1))
        for each, mean in zip(best, means, strict=True)
        if len(each) > 1
    ]
    limit = np.quantile([mean[-1] for mean in means], BETTER)
    return [mean for mean in means if mean[-1] < limit], np.concatenate(noise)


def one(
    top: int, rules: Rules, means: list[Array], noise: Array, draw: np.random.Generator
) -> tuple[float, bool, bool]:
    """The share of the epochs, whether the winner is wrong, whether it is a tie."""
    chosen = [means[n] for n in draw.choice(len(means), SETTINGS, replace=False)]
    found = [(mean + noise[draw.integers(len(noise))])[SEARCHED - 1] for mean in chosen]
    racers = [chosen[n] for n in np.argsort(found)[:top]]
    runs = [
        {
            seed: Run(
                np.minimum.accumulate(mean + noise[draw.integers(len(noise))]).tolist(), EPOCHS
            )
            for seed in range(rules.seeds)
        }
        for mean in racers
    ]
    race = replay(rules, runs)
    values = {
        each: np.mean([runs[each][seed].at(EPOCHS) for seed in race.seeds(each)])
        for each in race.left
    }
    winner = min(values, key=lambda each: values[each])
    equals = set(race.left)
    if len(equals) > 1:
        equals = {each.candidate for each in race.looks[-1].standings if not each.out}
    truth = [mean[-1] for mean in racers]
    best = int(np.argmin(truth))
    wrong = best not in equals and truth[winner] - truth[best] > TIE
    cost = sum(race.asked.values()) / (top * rules.seeds * EPOCHS)
    return cost, wrong, len(equals) > 1


def main() -> None:
    parser = argparse.ArgumentParser(description="wrong winners and the cost of the race")
    parser.add_argument("--table", type=Path, default=FILE)
    parser.add_argument("--races", type=int, default=600)
    parser.add_argument("--rungs", type=int, nargs="*", default=[8, 12])
    given = parser.parse_args()
    means, noise = read(given.table)
    print("| candidates | cost, median | mean | wrong | ties |\n|---|---|---|---|---|")
    for top in range(2, 6):
        rules, draw = Rules(EPOCHS, SEEDS, given.rungs), np.random.default_rng(0)
        results = [one(top, rules, means, noise, draw) for _ in range(given.races)]
        costs, wrong, ties = (np.array(each) for each in zip(*results, strict=True))
        print(
            f"| {top} | {np.median(costs):.0%} | {costs.mean():.0%} | {wrong.mean():.1%} |"
            f" {ties.mean():.0%} |"
        )


if __name__ == "__main__":
    main()
