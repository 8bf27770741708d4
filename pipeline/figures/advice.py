"""What the tables say about the next sweep: plain sentences from plain data."""

from __future__ import annotations

import pandas as pd

from pipeline.config import Search, Space
from pipeline.figures.trials import (
    FEWEST,
    Domains,
    Importance,
    numeric,
    scaled,
    show_domain,
    show_position,
)
from pipeline.hyperparameters import Choices, Domain

EDGE = 0.03  # share of a range, on its own scale, that counts as its edge
IDLE = 0.02  # importance below which a hyperparameter seems not to matter
SAVED = 0.05  # share of the epochs below which a pruner is not worth its risk


def advise(
    space: Space,
    trials: pd.DataFrame,
    candidates: pd.DataFrame,
    ranking: Importance | str,
    best: int | None,
) -> list[str]:
    """All advice; [] if nothing stands out.

    A sweep with two objectives has no single best trial, and so neither edges nor a best draw.
    """
    single = len(space.search.objectives) == 1
    return [
        *(edges(trials, space.searched, best) if single else []),
        *idle(ranking),
        *(random_as_well(trials, space.search) if single else []),
        *idle_pruner(trials, space.search),
        *seed_noise(candidates),
        *failures(trials),
    ]


def edges(trials: pd.DataFrame, searched: Domains, best: int | None) -> list[str]:
    """Ordered hyperparameters whose best value lies at an end of what was searched.

    The domains are `ascending`, and so are the places of choices in the trials.
    """
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


def random_as_well(trials: pd.DataFrame, search: Search) -> list[str]:
    """Whether the trials that the sampler learned from others found nothing better than chance."""
    complete = trials[trials["state"] == "complete"]
    # Until so many trials have finished, and a proposal sees those of parallelism before it.
    drawn = complete["number"] < search.startup_trials + search.parallelism - 1
    by_chance, learned = complete.loc[drawn, "nelbo_nats"], complete.loc[~drawn, "nelbo_nats"]
    if search.sampler in ("random", "grid") or learned.size < max(by_chance.size, FEWEST):
        return []
    if by_chance.empty or learned.min() < by_chance.min():
        return []
    return [
        f"The best trial is one of the first {by_chance.size}, which were drawn at random; the"
        f" {learned.size} that {search.sampler} proposed after them found nothing better: more"
        " trials of this space will hardly help, change the space or train longer."
    ]


def idle_pruner(trials: pd.DataFrame, search: Search) -> list[str]:
    """Whether the pruner saved next to nothing."""
    pruned = trials[trials["state"] == "pruned"]
    saved = float((search.epochs - pruned["epochs"]).sum())
    planned = search.epochs * len(trials)
    if search.pruner == "none" or len(trials) < 2 * search.min_trials or saved / planned >= SAVED:
        return []
    return [
        f"The {search.pruner} pruner stopped {len(pruned)} of {len(trials)} trials and saved"
        f" {saved / planned:.0%} of the epochs: set `pruner: none`, or raise search.epochs so that"
        " there is more to save."
    ]


def seed_noise(candidates: pd.DataFrame) -> list[str]:
    """Whether fresh seeds differ more than the candidates do."""
    ranked = candidates.dropna(subset="mean_nelbo_nats").sort_values("mean_nelbo_nats")
    if len(ranked) < 2:
        return []
    second = ranked.iloc[1]
    low, high = second["low_difference_nats"], second["high_difference_nats"]
    if pd.isna(low):
        return ["One seed a candidate cannot tell luck from merit: raise retrain.seeds."]
    if low > 0:
        return []
    return [
        f"The two best candidates differ by {second['difference_nats']:.2f} nats, and the interval"
        f" of that is {low:.2f} … {high:.2f}: it may be seed noise; raise retrain.seeds to tell"
        " them apart."
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
    """Ranges, and numbers to choose from of which there are at least three."""
    return not isinstance(domain, Choices) or (numeric(domain) and len(domain.choices) >= 3)
