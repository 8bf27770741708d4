"""Quality against epochs of samplers and pruners, replayed on recorded learning curves.

    python -m bench.pruning

Whole searches run with the project's own proposals and pruning decisions; a trial "trains" by
reading the curve of the nearest recorded setting (bench/curves.csv, see `bench.curves`). So many
searches cost a minute and no training. Prints a table and draws bench/pruning.png.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from bench.curves import BENCH, EPOCHS, SPACE, TABLE
from pipeline.config import Space
from pipeline.figures import style
from pipeline.figures.trials import scaled
from pipeline.hyperparameters import Choices, Value
from pipeline.study.propose import Proposer
from pipeline.study.prune import Curve, should_prune

SEEDS = 20
TRIALS = 24
BUDGET = TRIALS * EPOCHS
LEVELS = (BUDGET // 4, BUDGET // 2, BUDGET)
PARALLELISM = SPACE.search.parallelism
PRUNERS = {"none": style.BLUE, "median": style.ORANGE, "successive_halving": style.GREEN}
Arm = tuple[str, str, int]  # sampler, pruner, parallelism
Steps = list[tuple[int, float]]  # after every trial: epochs spent, lowest full-budget NELBO so far
ARMS: list[Arm] = [
    *((sampler, pruner, PARALLELISM) for sampler in ("tpe", "random") for pruner in PRUNERS),
    *(("tpe", "successive_halving", n) for n in (1, 4)),  # what deciding from fewer trials costs
]


class Recorded:
    """The curves of the nearest recorded setting.

    `patience` does not count as a distance: no recorded run stopped early.
    """

    def __init__(self, space: Space, table: pd.DataFrame):
        self._domains = {n: d for n, d in space.searched.items() if n != "patience"}
        runs = table.pivot(index="setting", columns="epoch", values="nelbo_nats")
        self._curves = runs.to_numpy()
        settings = table.drop_duplicates("setting").set_index("setting").loc[runs.index]
        self._points = np.column_stack([self._column(settings[n], n) for n in self._domains])
        self.lowest = float(self._curves[:, -1].min())

    def curve(self, chosen: dict[str, Value]) -> list[float]:
        """The validation NELBO in nats after every epoch."""
        cells = pd.DataFrame([{name: _text(chosen[name]) for name in self._domains}])
        point = np.column_stack([self._column(cells[name], name) for name in self._domains])
        nearest = int(np.square(self._points - point).sum(1).argmin())
        return list(map(float, self._curves[nearest]))

    def _column(self, values: pd.Series, name: str) -> Any:
        """Coordinates in [0, 1]; an unlike choice is as far away as the whole of a range."""
        domain = self._domains[name]
        if not isinstance(domain, Choices):
            return scaled(values.astype(float), domain).to_numpy()
        texts = [str(_text(choice)) for choice in domain.choices]
        return np.array([texts.index(str(value)) for value in values], float)


@dataclass
class Memory:
    """The finished trials of one search, read as `History` is."""

    trials: list[Any]
    kept: list[Curve]

    def finished(self, first: int, last: int) -> list[Any]:
        return self.trials[first : last + 1]

    running = finished

    def curves(self, last: int) -> list[Curve]:
        return [curve for curve in self.kept if curve.number <= last]


def search(
    space: Space, recorded: Recorded, sampler: str, pruner: str, parallelism: int, seed: int
) -> Steps:
    """One search until its epochs are spent."""
    options = {"sampler": sampler, "pruner": pruner, "parallelism": parallelism, "seed": seed}
    options = space.search.model_copy(update={**options, "epochs": EPOCHS})
    memory = Memory([], [])
    proposer = Proposer(space.searched, options, memory)  # type: ignore[arg-type]
    spent, best, steps = 0, float("inf"), []
    while spent < BUDGET:
        number = len(memory.trials)
        chosen = proposer.propose(number)
        values = recorded.curve(chosen)
        others = memory.curves(number - parallelism)
        ends = (e for e in range(1, EPOCHS) if should_prune(options, number, values[:e], others, 1))
        values = values[: next(ends, EPOCHS)]
        complete = len(values) == EPOCHS
        memory.trials.append(_trial(number, chosen, values, complete))
        memory.kept.append(Curve(number, tuple(values), complete))
        spent += len(values)
        best = min(best, values[-1]) if complete else best
        steps.append((spent, best))
    return steps


def _trial(number: int, chosen: dict[str, Value], values: list[float], complete: bool) -> Any:
    return SimpleNamespace(
        number=number,
        state="complete" if complete else "pruned",
        parameters=chosen,
        curve=[{"epoch": e, "nelbo_nats": value} for e, value in enumerate(values, 1)],
        result={"nelbo_nats": values[-1]},
    )


def _text(value: Value) -> Value:
    return json.dumps(value) if isinstance(value, list) else value


def after(steps: Steps, epochs: int) -> float:
    """The lowest NELBO that so many epochs have bought."""
    return min((best for spent, best in steps if spent <= epochs), default=float("inf"))


def row(arm: Arm, runs: list[Steps], lowest: float) -> str:
    gaps = [statistics.median(after(steps, n) for steps in runs) - lowest for n in LEVELS]
    at = [steps[TRIALS - 1] for steps in runs]
    epochs = statistics.mean(spent for spent, _ in at)
    gap = statistics.median(best for _, best in at) - lowest
    cells = [*map(str, arm), f"{epochs:.0f}", f"{gap:.2f}", *(f"{g:.2f}" for g in gaps)]
    return f"| {' | '.join(cells)} |"


def draw(
    results: dict[tuple[str, str, int], list[list[tuple[int, float]]]], lowest: float
) -> bytes:
    epochs = np.arange(EPOCHS, BUDGET + 1)
    with style.applied():
        drawing = style.figure(f"Pruners on recorded curves, {SEEDS} searches each", 3.6)
        panels = drawing.subplots(1, 2, sharey=True)
        for axes, sampler in zip(panels, ("tpe", "random"), strict=True):
            for pruner, ink in PRUNERS.items():
                runs = results[sampler, pruner, PARALLELISM]
                gaps = np.array([[after(steps, n) for n in epochs] for steps in runs]) - lowest
                low, middle, high = np.quantile(gaps, [0.25, 0.5, 0.75], axis=0)
                axes.fill_between(epochs, low, high, color=ink, alpha=0.15, linewidth=0)
                axes.plot(epochs, middle, color=ink, label=pruner.replace("_", " "))
            axes.set(title=f"{sampler}: median and quartiles", xlabel="epochs spent", ylim=(0, 6))
            axes.grid(axis="y")
        panels[0].set_ylabel("best NELBO found, above the\nbest recorded, nats per image")
        panels[1].legend()
        return style.png(drawing)


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    recorded = Recorded(SPACE, pd.read_csv(TABLE))
    levels = " | ".join(f"after {level} epochs" for level in LEVELS)
    print(f"| sampler | pruner | parallelism | epochs of {TRIALS} trials | after {TRIALS} trials |"
          f" {levels} |\n|---|---|---|---|---|{'---|' * len(LEVELS)}")  # fmt: skip
    results = {}
    for arm in ARMS:
        results[arm] = [search(SPACE, recorded, *arm, seed) for seed in range(SEEDS)]
        print(row(arm, results[arm], recorded.lowest), flush=True)
    (BENCH / "pruning.png").write_bytes(draw(results, recorded.lowest))


if __name__ == "__main__":
    main()
