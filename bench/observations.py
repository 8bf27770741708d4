"""What `bench.landscape` tells its informed policies: tables of kept trials, or simulated ones."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.settings.hyperparameters import Value
from pipeline.settings.space import Space
from pipeline.study.search.informing import observed
from pipeline.study.search.kept_table import read_table
from pipeline.study.search.propose import Proposer

if TYPE_CHECKING:
    from bench.surrogate import Array, Landscape

Setting = dict[str, Value]
COUNT, OTHERS = 40, 200  # simulated observations; settings beside, for their ranks


def of_file(file: Path, space: Space) -> list[Setting]:
    """Those of a table of kept trials."""
    return observed(space.searched, read_table(file.read_text(), file.name))[0]


def simulated(land: Landscape, space: Space, agreement: float) -> list[Setting]:
    """Random settings with ranks that agree as much with those of the landscape."""
    search = space.search.model_copy(update={"seed": 10**6 + land.number})
    draw = Proposer(space.searched, search).draw
    settings = [draw(number) for number in range(COUNT + OTHERS)]
    other = land.strange(settings)
    values = agreement * _normal(land.curves(settings)[:, -1])
    values += math.sqrt(1 - agreement**2) * _normal(other)
    return [settings[each] for each in np.argsort(values[:COUNT])]


def _normal(values: Array) -> Array:
    """Normal scores of their ranks."""
    from scipy.stats import norm

    ranks = np.argsort(np.argsort(values))
    return np.asarray(norm.ppf((ranks + 0.5) / len(values)))
