"""What searches propose and prune, on trials that cost nothing."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from searches import complete, mixed, search, toy_space

from pipeline.settings.search_section import Search
from pipeline.study.search import propose
from pipeline.study.search.numerics import of_proposals
from pipeline.study.search.prune import Curve, should_prune
from pipeline.vae.process import arithmetic as of_trainings

FILE = Path(__file__).parent / "proposals.json"
TRIALS, STARTUP = 18, 5
CELLS: dict[str, Any] = {
    "latent_dim": {"low": 4, "high": 6},
    "beta": {"low": 0.5, "high": 1.5, "step": 0.5},
    "optimizer": {"choices": ["adam", "sgd"]},
    "momentum": {"choices": [0.0, 0.5, 0.9], "when": {"optimizer": "sgd"}},
}
TWO: dict[str, Any] = {"objectives": ["kl_nats", "recon_nats"], "pruner": "none"}
SEARCHES: dict[str, dict[str, Any]] = {
    "random": {"sampler": "random", "pruner": "none"},
    "grid": {"sampler": "grid", "parameters": CELLS, "pruner": "none"},
    "tpe": {"sampler": "tpe", "trials": 40, "pruner": "none"},
    "tpe, rungs": {"sampler": "tpe", "trials": 30},
    "tpe, rungs of three": {"sampler": "tpe", "rungs": [1, 3], "reduction_factor": 3},
    "tpe, a third at random": {"sampler": "tpe", "random_share": 0.33},
    "tpe, median": {"sampler": "tpe", "pruner": "median"},
    "tpe, alone": {"sampler": "tpe", "parallelism": 1},
    "tpe, two objectives": {"sampler": "tpe", **TWO},
    "random, rungs": {"sampler": "random"},
    "cmaes": {"sampler": "cmaes", "trials": 20, "pruner": "none"},
    "gp": {"sampler": "gp", "trials": 14, "startup_trials": 3, "pruner": "none"},
}
BLOCKS = {"BLOCK": 8, "ELDERS": 4}  # of trials, as if 18 were a long search
PRUNERS: dict[str, dict[str, Any]] = {
    "none": {"pruner": "none"},
    "rungs": {"pruner": "rungs"},
    "median": {"pruner": "median"},
    "median, later": {"pruner": "median", "min_epochs": 3, "min_trials": 8},
    "percentile": {"pruner": "percentile", "percentile": 25.0},
}
PRUNED_TRIALS, EPOCHS = 40, 12


def compute() -> dict[str, list[Any]]:
    """The parts of every search of `SEARCHES`, and after how many epochs `PRUNERS` end a trial."""
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, list[Any]] = {
            name: _proposed(Path(folder), settings) for name, settings in SEARCHES.items()
        }
        with patch.multiple(propose, **BLOCKS):
            found["tpe, in blocks"] = _proposed(Path(folder), {"sampler": "tpe"})
    return found | {f"pruner {name}": _ends(search) for name, search in PRUNERS.items()}


def arithmetic() -> dict[str, str]:
    """What proposals depend on besides the code: a study's workers agree on the same."""
    return {**of_trainings("cpu"), **of_proposals()}


def differences(name: str, then: list[Any], now: list[Any], *, exact: bool) -> list[str]:
    """The trials that are not what was recorded; without `exact` only where nothing is learned.

    Samplers that learn order trials and densities: a last bit, or the order of equals, for which
    numpy has a sort for each instruction set, sends them elsewhere (TPE: from trial 10 on).
    """
    if not exact and name.startswith(("tpe", "cmaes", "gp")):
        return []
    if len(then) != len(now):
        return [f"{len(now)} trials, recorded {len(then)}"]
    return [
        f"trial {number}: {new}, recorded {old}"
        for number, (old, new) in enumerate(zip(then, now, strict=True))
        if old != new
    ]


def _proposed(folder: Path, settings: dict[str, Any]) -> list[list[Any]]:
    """What each part is: its trial, from and to which epoch, whom it follows, the parameters."""
    defaults = {"trials": TRIALS, "startup_trials": STARTUP}
    space = toy_space(**{**defaults, **settings})
    ends = mixed if len(space.search.objectives) == 1 else complete  # of two none stops
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        parts = search(space, Path(fresh), ends=ends)
        return [[p.trial, p.since, p.until, p.follows, p.parameters] for p in parts]


def _ends(settings: dict[str, Any]) -> list[int | None]:
    """Epochs after which each of the trials is pruned; None: never."""
    search = Search(epochs=EPOCHS, **settings)
    others: list[Curve] = []
    ends: list[int | None] = []
    for number, values in enumerate(_curves()):
        seen = [curve for curve in others if curve.number <= number - search.parallelism]
        first_epoch = 1 + number % 3  # the end of a KL warm-up
        pruned = (
            epoch
            for epoch in range(1, EPOCHS)
            if should_prune(search, values[:epoch], seen, first_epoch)
        )
        end = next(pruned, None)
        others.append(Curve(number, tuple(values[:end]), complete=end is None))
        ends.append(end)
    return ends


def _curves() -> Iterator[list[float]]:
    """NELBOs that fall, and rise again where a trial is restless."""
    draw = random.Random(0)
    for _ in range(PRUNED_TRIALS):
        level, fall, unrest = draw.uniform(90, 110), draw.uniform(5, 40), draw.uniform(0, 6)
        yield [level + fall / epoch + draw.uniform(0, unrest) for epoch in range(1, EPOCHS + 1)]
