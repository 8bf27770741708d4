"""Which hyperparameters mattered, by a random forest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.figures.rungs import at_first_rung
from pipeline.figures.trials import Domains, scaled

TRUSTED = 0.3  # out-of-bag R² below which a forest's shares are noise
SEED = 0
FEWEST = 8  # trials below which a forest says nothing about hyperparameters


@dataclass(frozen=True)
class Importance:
    """What a random forest found out about the hyperparameters.

    `shares` sum to 1 (or are all 0). `out_of_bag` is the R² of the forest on the trials that a
    tree has not seen: near or below 0 it has learned nothing. `epochs` are those after which the
    trials were compared, rising.
    """

    shares: pd.Series
    out_of_bag: float
    trials: int
    epochs: tuple[int, ...] = ()

    @property
    def trusted(self) -> bool:
        """Whether the forest predicts unseen trials well enough to be believed."""
        return self.out_of_bag >= TRUSTED


def importance(trials: pd.DataFrame, searched: Domains, parts: pd.DataFrame) -> Importance | str:
    """Permutation importance of a random forest (Breiman 2001) for the rank of a trial's NELBO.

    Trials are compared where all have been: at the first rung. (The NELBOs at their ends would
    mostly say how long each was trained.) Where a searched KL warm-up makes some pause later than
    others, each is ranked among those that paused with it. Ranks keep a diverged trial from
    outweighing all others. A hyperparameter that does not exist in a trial stands at the middle of
    its domain. Returns a reason if there are too few trials.
    """
    there = at_first_rung(parts).rename(columns={"nelbo_nats": "value"})
    table = trials.join(there, on="number", how="inner")
    if not searched:
        return "No hyperparameter was searched: there is nothing to rank."
    if len(table) < FEWEST:
        return (f"Importance needs at least {FEWEST} finished trials, but there are {len(table)}:"
                " raise search.trials.")  # fmt: skip
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    columns = [scaled(table[name], domain).fillna(0.5) for name, domain in searched.items()]
    settings = np.column_stack(columns)
    ranks = table.groupby("until")["value"].rank(pct=True).to_numpy()
    forest = RandomForestRegressor(100, oob_score=True, random_state=SEED).fit(settings, ranks)
    drops = permutation_importance(forest, settings, ranks, n_repeats=10, random_state=SEED)
    gains = pd.Series(np.maximum(drops.importances_mean, 0), index=list(searched))
    shares = gains / gains.sum() if gains.sum() > 0 else gains
    epochs = tuple(sorted(set(table["until"])))
    order = shares.sort_values(ascending=False)
    return Importance(order, float(forest.oob_score_), len(table), epochs)
