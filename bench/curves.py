"""Real learning curves, trained once, for `bench.pruning` to replay.

    python -m pipeline prepare fashion && python -m bench.curves

writes bench/curves.csv: 60 random settings of bench/search_spaces/recorded.yaml (an earlier default
space), 8 epochs each on all training images in bf16 (whose NELBO agrees with fp32 within 0.02
nats), as many at once as there are cores. It takes about 25 core-minutes where the processor has
bf16.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd

from pipeline.config import Space, load_space
from pipeline.hyperparameters import Value
from pipeline.paths import Paths, atomic_path
from pipeline.seeds import derive_seed
from pipeline.study.propose import Proposer
from pipeline.study.tables import cell

BENCH = Path(__file__).parent
ROOT = BENCH.parent
TABLE = BENCH / "curves.csv"
SPACE = load_space(BENCH, "recorded")
SETTINGS, EPOCHS = 60, 8


def draws(space: Space, count: int) -> list[dict[str, Value]]:
    """Random settings of the space, as a random search of it has them."""
    search = space.search.model_copy(update={"sampler": "random"})
    proposer = Proposer(space.searched, search, history=None)  # type: ignore[arg-type]
    return [proposer.propose(number) for number in range(count)]


def train(number: int) -> list[float]:
    """The validation NELBO in nats of a setting after every epoch."""
    from pipeline.vae.data import load_images
    from pipeline.vae.fit import Training
    from pipeline.vae.process import prepare_process

    prepare_process()
    prepare = Paths(ROOT, "fashion").prepare
    chosen = draws(SPACE, SETTINGS)[number] | {"precision": "bf16", "patience": None}
    training = Training(
        load_images(prepare, "train"),
        load_images(prepare, "validation"),
        {**SPACE.hyperparameters(chosen).model_dump(), **SPACE.model.model_dump()},
        derive_seed("bench.curves", number),
        EPOCHS,
    )
    while not training.finished:
        training.run_epoch()
    values = [record["nelbo_nats"] for record in training.records]
    print(f"{number + 1}/{SETTINGS}: {values[-1]:.2f} nats", file=sys.stderr, flush=True)
    return values


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        curves = list(pool.map(train, range(SETTINGS)))
    rows = []
    for number, (chosen, values) in enumerate(zip(draws(SPACE, SETTINGS), curves, strict=True)):
        setting = {name: cell(value) for name, value in chosen.items()}
        for epoch, value in enumerate(values, 1):
            rows.append({"setting": number, **setting, "epoch": epoch, "nelbo_nats": value})
    with atomic_path(TABLE) as path:
        pd.DataFrame(rows).round({"nelbo_nats": 4}).to_csv(path, index=False)


if __name__ == "__main__":
    main()
