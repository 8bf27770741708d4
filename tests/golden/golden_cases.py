"""Settings of short trainings that together hold every pair of values of all hyperparameters."""

from __future__ import annotations

import random
from itertools import combinations
from typing import Any, get_args

from pipeline.settings.hyperparameters import ONLY_FOR_FAMILY, Hyperparameters
from pipeline.settings.sections import Model

Case = dict[str, Any]  # hyperparameters and the model section, but what it does not read
Held = tuple[tuple[str, str], ...]  # names, each with the text of its value

EPOCHS = 3
DRAWN = 2000  # enough to see every pair that there is; a test would miss a rarer one
SIGMAS = (None, 0.7, "optimal")
CORE = ("family", "optimizer", "schedule", "averaging")  # of these every triple, too


def _names(section: type[Any], name: str) -> tuple[str, ...]:
    return get_args(section.model_fields[name].annotation)


# In this order: whether a case reads a hyperparameter may depend on those above it. Rates, widths
# and shares are such that every rule acts within three epochs of fifteen steps.
LEVELS: dict[str, tuple[Any, ...]] = {
    "family": ("mlp", "conv_stride", "conv_pool"),  # residual: tests/vae/test_residual.py
    "likelihood": get_args(_names(Model, "likelihood")[0]),  # the others are in files of one's own
    "sigma": SIGMAS,
    "optimizer": _names(Hyperparameters, "optimizer"),
    "schedule": _names(Hyperparameters, "schedule"),
    "averaging": (None, 9),
    "hidden": ([32], [32, 16]),
    "skip": (False, True),
    "activation": _names(Hyperparameters, "activation"),
    "init": _names(Hyperparameters, "init"),
    "centered": (False, True),
    "precision": _names(Hyperparameters, "precision"),
    "batch_size": (16, 115),  # a smaller last batch; none
    "momentum": (0.9, 0.0),
    "weight_decay": (0.0, 0.01),
    "lr_warmup": (0.0, 0.3),
    "max_grad_norm": (None, 8.0),
    "beta": (1.0, 0.5),
    "kl_warmup": (0.0, 0.5),
    "kl_warmup_epochs": (0, 2),
    "patience": (None, 1),
    "min_delta": (0.0, 1000.0),
    "restore_best": (True, False),
    "monitor": _names(Hyperparameters, "monitor"),
}
FIXED = {"latent_dim": 3, "filters": 4, "dense_units": 8, "lr": 1e-3, "plateau_patience": 1,
         "plateau_factor": 0.5, "plateau_floor": 1e-6}  # fmt: skip


def covering(kept: list[Case]) -> list[Case]:
    """`kept`, and so many drawn cases that all hold together what every drawn one does.

    Greedily the one that adds most, so that few are needed.
    """
    drawn = draw_cases()
    held = [holds(case) for case in drawn]
    missing = set().union(*held).difference(*map(holds, kept))
    chosen = list(kept)
    while missing:
        best = max(range(len(drawn)), key=lambda n: len(held[n] & missing))
        chosen.append(drawn[best])
        missing -= held[best]
    return chosen


def draw_cases() -> list[Case]:
    """`DRAWN` cases at random, always the same."""
    generator = random.Random(0)
    return [_draw(generator) for _ in range(DRAWN)]


def holds(case: Case) -> set[Held]:
    """Every two values of a case, and every three of the core."""
    values = [(name, str(case[name])) for name in LEVELS if name in case]
    core = [(name, text) for name, text in values if name in CORE]
    return {*combinations(values, 2), *combinations(core, 3)}


def _draw(generator: random.Random) -> Case:
    case: Case = {}
    for name, levels in LEVELS.items():
        level = generator.choice(levels)
        if _reads(case, name) and not _excluded(case, name, level):
            case[name] = level
    return case


def _reads(case: Case, name: str) -> bool:
    """Whether the value of `name` matters in a case that holds all hyperparameters above it."""
    if name in ONLY_FOR_FAMILY:
        return case["family"] in ONLY_FOR_FAMILY[name]
    if name == "sigma":
        return case["likelihood"] == "gaussian"
    if name == "momentum":
        return case["optimizer"] in ("sgd", "rmsprop")
    if name == "lr_warmup":
        return case["schedule"] in ("constant", "cosine")
    return True


def _excluded(case: Case, name: str, level: Any) -> bool:
    """What a search space may not combine."""
    if name == "averaging":
        return level is not None and case.get("sigma") == "optimal"
    return name == "kl_warmup_epochs" and bool(level) and bool(case["kl_warmup"])


def readable(case: Case) -> bool:
    """Whether all values of a recorded case are still levels."""
    return all(name in LEVELS and value in LEVELS[name] for name, value in case.items())
