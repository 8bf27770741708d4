"""What the tables say about the next sweep: plain sentences from plain data."""

from __future__ import annotations

import pandas as pd

from pipeline.config import Space
from pipeline.figures.trials import Domains, Importance, scaled, show_domain, show_position
from pipeline.hyperparameters import Choices, Domain

EDGE = 0.03  # share of a range, on its own scale, that counts as its edge
IDLE = 0.02  # importance below which a hyperparameter seems not to matter


def advise(
    space: Space,
    trials: pd.DataFrame,
    candidates: pd.DataFrame,
    ranking: Importance | str,
    best: int | None,
) -> list[str]:
    """All advice: edges, idle hyperparameters, seed noise, failures; [] if nothing stands out.

    A sweep with two objectives has no single best trial and so no edges.
    """
    single = len(space.search.objectives) == 1
    return [
        *(edges(trials, space.searched, best) if single else []),
        *idle(ranking),
        *seed_noise(candidates),
        *failures(trials),
    ]


def edges(trials: pd.DataFrame, searched: Domains, best: int | None) -> list[str]:
    """Ordered hyperparameters whose best value lies at an end of what was searched."""
    row = trials[trials["number"] == best]
    found = []
    for name, domain in searched.items():
        place = scaled(row[name], domain)
        if place.isna().all() or not _ordered(domain):
            continue
        side = {True: "lower", False: "upper"}.get(bool(place.iloc[0] < 0.5))
        if min(place.iloc[0], 1 - place.iloc[0]) <= EDGE:
            found.append(
                f"{name}: the best trial has {show_position(row[name].iloc[0], domain)}, at the"
                f" {side} end of {show_domain(domain)}: widen it there."
            )
    return found


def idle(ranking: Importance | str) -> list[str]:
    """Hyperparameters that a trustworthy forest makes no use of."""
    if isinstance(ranking, str) or not ranking.trusted:
        return []
    return [
        f"{name}: explains {share:.0%} of what the trials differ by: fix it and spend the trials on"
        " the others."
        for name, share in ranking.shares.items()
        if share < IDLE
    ]


def seed_noise(candidates: pd.DataFrame) -> list[str]:
    """Whether fresh seeds differ more than the candidates do."""
    ranked = candidates.dropna(subset="mean_nelbo_nats").sort_values("mean_nelbo_nats")
    if len(ranked) < 2:
        return []
    if ranked[["low_nelbo_nats", "high_nelbo_nats"]].isna().to_numpy().any():
        return ["One seed a candidate cannot tell luck from merit: raise retrain.seeds."]
    first, second = ranked.iloc[:2].to_dict("records")
    gap = second["mean_nelbo_nats"] - first["mean_nelbo_nats"]
    if first["high_nelbo_nats"] < second["low_nelbo_nats"]:
        return []
    return [
        f"The two best candidates differ by {gap:.2f} nats and their intervals overlap: the"
        " difference may be seed noise; raise retrain.seeds to tell them apart."
    ]


def failures(trials: pd.DataFrame) -> list[str]:
    """Failed trials by reason."""
    failed = trials[trials["state"] == "failed"]
    reasons = failed["reason"].fillna("no reason given").value_counts(sort=False)
    return [
        f"{count} of {len(trials)} trials failed: {reason}"
        for reason, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    ]


def _ordered(domain: Domain) -> bool:
    """Ranges, and ascending numbers to choose from of which there are at least three."""
    if not isinstance(domain, Choices):
        return True
    numbers = [c for c in domain.choices if isinstance(c, int | float) and not isinstance(c, bool)]
    return len(numbers) == len(domain.choices) >= 3 and numbers == sorted(numbers)
