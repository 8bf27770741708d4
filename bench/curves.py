"""Real learning curves of the default space, trained once, for `bench.pruning` to replay.

    python -m pipeline prepare fashion && python -m bench.curves

writes bench/curves.csv: 60 random settings of search_spaces/fashion.yaml, 6 epochs each on 10 000
training images, the validation NELBO measured on 2 000. It takes about 6 core-minutes.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.config import Space, load_space
from pipeline.hyperparameters import Value
from pipeline.paths import Paths, atomic_path
from pipeline.seeds import derive_seed
from pipeline.study.propose import Proposer
from pipeline.study.tables import cell

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "bench" / "curves.csv"
SETTINGS, EPOCHS, IMAGES, VALIDATION_IMAGES = 60, 6, 10_000, 2_000


def draws(space: Space, count: int) -> list[dict[str, Value]]:
    """Random settings of the space, as a random search of it has them."""
    search = space.search.model_copy(update={"sampler": "random"})
    proposer = Proposer(space.searched, search, history=None)  # type: ignore[arg-type]
    return [proposer.propose(number) for number in range(count)]


def train(space: Space, chosen: dict[str, Value], number: int) -> list[float]:
    """The validation NELBO in nats after every epoch."""
    from pipeline.vae.data import load_images
    from pipeline.vae.fit import Training

    prepare = Paths(ROOT, space.name).prepare
    config: dict[str, Any] = {
        **space.hyperparameters(chosen).model_dump(),
        **space.model.model_dump(),
    }
    training = Training(
        load_images(prepare, "train")[:IMAGES],
        load_images(prepare, "validation")[:VALIDATION_IMAGES],
        config,
        derive_seed("bench.curves", number),
        EPOCHS,
    )
    while not training.finished:
        training.run_epoch()
    return [record["nelbo_nats"] for record in training.records]


def main() -> None:
    import torch

    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    space = load_space(ROOT, "fashion")
    rows = []
    for number, chosen in enumerate(draws(space, SETTINGS)):
        values = train(space, chosen, number)
        setting = {name: cell(value) for name, value in chosen.items()}
        for epoch, value in enumerate(values, 1):
            rows.append({"setting": number, **setting, "epoch": epoch, "nelbo_nats": value})
        print(f"{number + 1}/{SETTINGS}: {values[-1]:.2f} nats,"
              f" {time.process_time():.0f} core-seconds so far", file=sys.stderr)  # fmt: skip
    with atomic_path(TABLE) as path:
        pd.DataFrame(rows).round({"nelbo_nats": 4}).to_csv(path, index=False)


if __name__ == "__main__":
    main()
