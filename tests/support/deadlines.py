"""Random deadlines over real sweeps, until each has come to all that it is asked for.

    PYTHONPATH=. python tests/support/deadlines.py --count 10 [--data fashion-mnist]

Each deadline has to leave a winner on two fresh seeds at least, its figures and a report, at most
LATE seconds late, or the outputs of before and a line that says so. A sweep at its end has to have
the outputs of one that nothing has disturbed, to the byte.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from surroundings import ARITHMETIC
from worked import SPACE

ROOT = Path(__file__).parents[2]
STAGES = ("settings", "prepare", "search", "retrain", "evaluate", "render")
LATE = 30.0
NO_TIME = 130
DIGITS: dict[str, Any] = {
    **SPACE,
    "search": {"trials": 12, "epochs": 9, "parallelism": 2, "startup_trials": 4, "seed": 1},
    "retrain": {"top": 2, "seeds": 3, "epochs": 12},
}
FASHION: dict[str, Any] = {
    **DIGITS,
    "data": {"name": "fashion-mnist", "limit": 4_000},
    "parameters": {
        "lr": {"low": 5e-4, "high": 5e-3, "log": True},
        "latent_dim": {"choices": [8, 16]},
        "hidden": {"choices": [[128], [256, 128]]},
        "batch_size": 128,
    },
    "evaluate": {"iw_samples": 10},
}


@dataclass(frozen=True)
class Ended:
    """What a deadline has led to."""

    sweep: int  # which one of those that are worked on one after the other
    seconds: float  # until the deadline
    late: float  # seconds after it; negative: before
    code: int
    budget: dict[str, int] | None  # that was chosen, if not all of it
    said: str

    @property
    def is_over(self) -> bool:
        """Whether the sweep has come to all that it is asked for."""
        return self.code == 0 and self.budget is None


class Clone:
    """A folder like a clone's with the sweep `tiny`."""

    def __init__(self, root: Path, space: dict[str, Any]):
        self.root = root
        (root / "search_spaces").mkdir(parents=True)
        (root / "search_spaces" / "tiny.yaml").write_text(yaml.safe_dump(space))
        (root / "machine.yaml").write_text("workers: 2\ntracking: none\ndevice: cpu\n")

    @property
    def folder(self) -> Path:
        return self.root / "runs" / "tiny"

    def give(self, *command: str) -> tuple[int, str]:
        """Gives a command; its exit code and the last line that it says."""
        known = {**os.environ, "PYTHONPATH": str(ROOT), **ARITHMETIC}
        argv = [sys.executable, "-m", "pipeline", *command]
        done = subprocess.run(argv, cwd=self.root, env=known, capture_output=True, text=True)
        return done.returncode, (done.stderr.strip().splitlines() or [""])[-1]

    def outputs(self) -> dict[str, bytes]:
        """The files of all stages."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for stage in STAGES
            for path in sorted((self.folder / stage).rglob("*"))
            if path.is_file()
        }

    def until(self, seconds: float, sweep: int = 0) -> Ended:
        """Runs the sweep with so much time, and looks at what it leaves."""
        before, started = self.outputs(), time.monotonic()
        code, said = self.give("run", "tiny", "--for", f"{round(seconds)}s")
        late = time.monotonic() - started - round(seconds)
        budget = None
        if code == 0:
            winner = json.loads((self.folder / "retrain/winner.json").read_text())
            assert len(winner["values_nelbo_nats"]) >= 2
            metrics = json.loads((self.folder / "evaluate/metrics.json").read_text())
            assert math.isfinite(metrics["nelbo_nats"])
            assert (self.folder / "render/report.html").exists()
            assert self.give("verify", "tiny")[0] == 0
        else:
            assert code == NO_TIME, said
            if any(name.startswith("render") for name in before):
                assert "the winner and the report of before stand" in said
                assert self.outputs() == before
            assert "no new answer by" in said, said
        if code == 0 and (self.folder / "budget.json").exists():
            budget = json.loads((self.folder / "budget.json").read_text())["chosen"]
        return Ended(sweep, seconds, late, code, budget, said)


def rounds(
    folder: Path, space: dict[str, Any], count: int, span: tuple[float, float], seed: int = 0
) -> Iterator[Ended]:
    """So many deadlines, and then the rest; raises AssertionError where one is not kept."""
    draw, left, number = random.Random(seed), count, 0
    undisturbed = Clone(folder / "undisturbed", space)
    assert undisturbed.give("run", "tiny")[0] == 0
    while left > 0:
        number += 1
        clone = Clone(folder / f"{number}", space)
        over = False
        while left > 0 and not over:
            ended = clone.until(draw.uniform(*span), number)
            yield ended
            assert ended.late <= LATE, ended
            left, over = left - 1, ended.is_over
        if not over:
            assert clone.give("run", "tiny")[0] == 0
        assert clone.outputs() == undisturbed.outputs()


def main() -> None:
    """Says of each deadline what it has led to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--data", choices=["digits", "fashion-mnist"], default="digits")
    parser.add_argument("--span", type=float, nargs=2, default=[20.0, 90.0])
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    space = DIGITS if given.data == "digits" else FASHION
    with tempfile.TemporaryDirectory() as folder:
        worst = -1e9
        for ended in rounds(Path(folder), space, given.count, tuple(given.span), given.seed):
            worst = max(worst, ended.late)
            print(
                f"load {os.getloadavg()[0]:4.1f}, sweep {ended.sweep},"
                f" {ended.seconds:3.0f} s: {ended.late:+6.1f} s, exit code {ended.code},"
                f" {ended.budget or 'all' if ended.code == 0 else ended.said}",
                flush=True,
            )
        print(f"latest: {worst:+.1f} s; all sweeps ended as undisturbed ones")


if __name__ == "__main__":
    main()
