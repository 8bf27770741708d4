"""What the pipeline costs beside training: core-seconds of each command on a sweep of next to none.

    python -m bench.startup

One trial of five epochs and one retraining on the 8×8 digits take well under a second, so that
what remains is imports, processes, files, the ledger, MLflow and the drawing of the figures.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.hardware import hardware, table

TRACKING = ("none", "sqlite")
RENDER_IMPORTS = "import torch, matplotlib.pyplot, sklearn.decomposition, sklearn.manifold, pandas"
STAGES = ("prepare", "search", "retrain", "evaluate", "render")
SPACE = """
data: {name: digits}
parameters: {family: mlp, hidden: [64], batch_size: 16, lr: {low: 2.0e-3, high: 5.0e-3}}
search: {trials: 1, epochs: 5}
retrain: {top: 1, seeds: 1, epochs: 5}
"""


def main() -> None:
    """Measures the commands with and without MLflow and prints them side by side."""
    with tempfile.TemporaryDirectory() as folder:
        sweeps = {tracking: sweep(Path(folder) / tracking, tracking) for tracking in TRACKING}
        again = {tracking: sweep(Path(folder) / f"{tracking}2", tracking) for tracking in TRACKING}
        commands = [("--help",), ("check", "small"), *((stage, "small") for stage in STAGES)]
        rows = [measured(sweeps, *command) for command in commands]
        rows.append(measured(again, "run", "small"))
        drawing = core_seconds(again["none"], "-m", "pipeline", "render", "small")
        drawing -= core_seconds(again["none"], "-c", RENDER_IMPORTS)
    print(table(rows))
    print(f"`run` is all five stages in one process; {drawing:.1f} of it are figures. {hardware()}")


def sweep(root: Path, tracking: str) -> Path:
    """A checkout with the small sweep, tracked in MLflow's default store or not at all."""
    (root / "search_spaces").mkdir(parents=True)
    (root / "search_spaces" / "small.yaml").write_text(SPACE)
    if tracking == "none":
        (root / "machine.yaml").write_text("tracking: none\n")
    return root


def measured(sweeps: dict[str, Path], *arguments: str) -> dict[str, str]:
    """Core-seconds of one command and of all that it starts."""
    return {"command": " ".join(["python -m pipeline", *arguments])} | {
        f"tracking {tracking}": f"{core_seconds(root, '-m', 'pipeline', *arguments):.1f}"
        for tracking, root in sweeps.items()
    }


def core_seconds(where: Path, *arguments: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *arguments],
        cwd=where,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        check=True,
        capture_output=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
