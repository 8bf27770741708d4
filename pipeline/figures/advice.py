"""What the tables say about the next sweep: plain sentences from plain data."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from pipeline.figures import winner_advice
from pipeline.figures.importance import FEWEST, Importance
from pipeline.figures.inputs import Inputs
from pipeline.figures.rungs import at_first_rung
from pipeline.figures.trials import (
    Domains,
    numeric,
    scaled,
    show_domain,
    show_position,
)
from pipeline.results.states import RANKED, State
from pipeline.settings.hyperparameters import Choices, Domain
from pipeline.settings.search_section import PRUNERS, Search
from pipeline.settings.space import Space

EDGE = 0.03  # share of a range, on its own scale, that counts as its edge
IDLE = 0.02  # importance below which a hyperparameter seems not to matter
MOSTLY = 2 / 3  # share of pruned trials from which the complete ones are called few
CHANCE = 0.05  # of a difference as large or larger if there were none: from there it is none
SAVED = 0.05  # share of the epochs below which a pruner is not worth its risk


def advise(
    space: Space,
    inputs: Inputs,
    ranking: Importance | str,
    sd: float,
    sources: Sequence[str],
) -> list[str]:
    """All advice, the winner's first; [] if nothing stands out.

    `sd` is the standard deviation of the winner's NELBO over test images, in nats; `sources` says
    of every trial where its parameters came from. A sweep with two objectives has no single best
    trial, and so neither edges nor a best draw.
    """
    trials, search, best = inputs.trials, space.search, inputs.winner["number"]
    single = len(search.objectives) == 1
    centre = centre_is_best(trials, search, best, sources) if single else []
    equals = winner_advice.equal_candidates(inputs.candidates)
    return [
        *about_winner(space, inputs, sd),
        *centre,
        *(edges(trials, space.searched, best) if single else []),
        *idle(ranking),
        *(random_as_well(inputs.parts, sources, search) if single and not centre else []),
        *mostly_pruned(trials),
        *few_complete(trials, space.retrain.top),
        *never_learned(trials, search),
        *idle_pruner(trials, search),
        *idle_rungs(trials, inputs.parts, search),
        *stopped(trials, search),
        *(equals or seed_noise(inputs.candidates)),
        *failures(trials),
    ]


def about_winner(space: Space, inputs: Inputs, sd: float) -> list[str]:
    """What the winner's training, its latent space and its measures say."""
    winner, metrics, run = inputs.winner, inputs.metrics, inputs.winning_run
    setting = space.hyperparameters(winner["parameters"])
    row = inputs.candidates[inputs.candidates["candidate"] == winner["candidate"]].iloc[0]
    low, high = row["low_nelbo_nats"], row["high_nelbo_nats"]
    counts = inputs.manifest["counts"]
    epoch, mean = winner.get("best_epoch"), metrics["baselines"]["mean_image_nelbo_nats"]
    searched = inputs.trials.loc[inputs.trials["number"] == winner["number"], "epochs"].max()
    return [
        *winner_advice.short_training(run, epoch, space.retrain.epochs),
        *winner_advice.overfitting(run, epoch, mean),
        *winner_advice.idle_units(
            metrics["active_units"],
            setting.latent_dim,
            bool(setting.kl_warmup or setting.kl_warmup_epochs),
        ),
        *winner_advice.next_to_baselines(metrics),
        *winner_advice.lucky_search(
            winner, None if pd.isna(low) else (low, high), searched, space.retrain.epochs
        ),
        *winner_advice.worse_on_test(metrics, winner, sd, (counts["validation"], counts["test"])),
    ]


def centre_is_best(
    trials: pd.DataFrame, search: Search, best: int | None, sources: Sequence[str]
) -> list[str]:
    """Whether a search that begins at the centre of its space found nothing better.

    One that begins with kept trials does not, nor one whose centre breaks its constraints.
    """
    centre = len(search.enqueue)
    others = int((trials["number"] != centre).sum())
    if search.sampler in ("random", "grid") or best != centre or others < FEWEST:
        return []
    if sources[centre] != "given":
        return []
    return [
        f"The winner is trial {centre}, the centre of the space, where the search begins; the"
        f" {others} others found nothing better: the ranges are too wide for so few trials, or the"
        " centre is as good as this space gets; raise search.trials, narrow the ranges or search"
        " others."
    ]


def mostly_pruned(trials: pd.DataFrame) -> list[str]:
    """Whether the ranking rests on few complete trials because most were stopped."""
    pruned = (trials["state"] == State.PRUNED).sum()
    complete = (trials["state"] == State.COMPLETE).sum()
    if len(trials) < FEWEST or pruned < MOSTLY * len(trials):
        return []
    return [
        f"{pruned} of {len(trials)} trials were pruned, so the ranking and the importances rest on"
        f" {complete} complete ones: raise search.min_epochs or search.min_trials, so that trials"
        " have time to show what they are worth."
    ]


def few_complete(trials: pd.DataFrame, top: int) -> list[str]:
    """Whether every trial that can be ranked became a candidate: the search decided nothing."""
    ranked = int(trials["state"].isin(RANKED).sum())
    if not len(trials) or not 0 < ranked <= top:
        return []
    return [
        f"There are {ranked} ranked trials for {top} candidates: the search has ranked nothing;"
        " raise search.trials or lower retrain.top."
    ]


def never_learned(trials: pd.DataFrame, search: Search) -> list[str]:
    """Whether the budget was spent before the sampler learned from a trial."""
    if search.sampler in ("random", "grid") or not 0 < len(trials) <= search.startup_trials:
        return []
    why = f"search.trials is {search.trials}"
    if len(trials) < search.trials and search.stop and not search.total_epochs:
        why = f"search.stop ended it after {len(trials)} trials"
    elif len(trials) < search.trials:
        why = f"search.total_epochs, {search.total_epochs}, was used up by {len(trials)} trials"
    return [
        f"{search.sampler} proposed none of the trials: {why}, and the first"
        f" {search.startup_trials} are the centre and random draws; raise that or lower"
        " search.startup_trials."
    ]


def edges(trials: pd.DataFrame, searched: Domains, best: int | None) -> list[str]:
    """Ordered hyperparameters whose value in the winner lies at an end of what was searched.

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
                f"{name}: the winner has {show_position(row[name].iloc[0], domain)}, at the"
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


def random_as_well(parts: pd.DataFrame, sources: Sequence[str], search: Search) -> list[str]:
    """Whether what the sampler proposed cannot be told from the random draws of the same search.

    They are compared where all trials have been, at the first rung, by the one-sided rank test of
    Mann and Whitney: how often a proposal beats a draw. `sources` says of every trial where its
    parameters came from (see `pipeline.study.search.sources`).
    """
    there = at_first_rung(parts)
    there = there[there["until"] == there["until"].mode().max()]
    source = pd.Series(list(sources), dtype=object).reindex(there.index)
    learned = there.loc[source == "proposed", "nelbo_nats"]
    drawn = there.loc[source == "drawn", "nelbo_nats"]
    if min(learned.size, drawn.size) < FEWEST:
        return []
    from scipy.stats import mannwhitneyu

    test = mannwhitneyu(learned, drawn, alternative="less")
    if test.pvalue < CHANCE:
        return []
    wins = 1 - test.statistic / (learned.size * drawn.size)
    return [
        f"The {learned.size} settings that {search.sampler} proposed cannot be told from the"
        f" {drawn.size} random draws of the same search: after epoch"
        f" {there['until'].iloc[0]:.0f}, where all can be compared, a proposal is better than a"
        f" draw in {wins:.0%} of pairs (p = {test.pvalue:.2f} if there were no difference): what"
        " it has learned does not show yet; give it more trials, or search what matters more."
    ]


def idle_pruner(trials: pd.DataFrame, search: Search) -> list[str]:
    """Whether the pruner saved next to nothing."""
    pruned = trials[trials["state"] == State.PRUNED]
    saved = float((search.epochs - pruned["epochs"]).sum())
    planned = search.epochs * len(trials)
    if search.pruner not in PRUNERS or len(trials) < 2 * search.min_trials:
        return []
    if saved / planned >= SAVED:
        return []
    return [
        f"The {search.pruner} pruner stopped {len(pruned)} of {len(trials)} trials and saved"
        f" {saved / planned:.0%} of the epochs: set `pruner: none`, or raise search.epochs so that"
        " there is more to save."
    ]


def idle_rungs(trials: pd.DataFrame, parts: pd.DataFrame, search: Search) -> list[str]:
    """Whether rungs let next to everything through, or next to nothing."""
    if search.pruner != "rungs" or len(search.pauses) == 1 or len(trials) < FEWEST:
        return []
    reached = parts[parts["state"].isin(RANKED)]
    first = reached.loc[reached["since"] == 0, "until"]
    if len(first) and first.min() >= search.epochs:
        return [
            f"No trial paused before its last epoch, {search.epochs}: a KL warm-up lasts beyond all"
            " other rungs, and within it a NELBO says nothing; shorten the warm-up, or raise"
            " search.epochs."
        ]
    paused = trials[trials["state"] == State.PAUSED]
    saved = float((search.epochs - paused["epochs"]).sum()) / (search.epochs * len(trials))
    if saved < SAVED:
        return [
            f"The rungs let {len(trials) - len(paused)} of {len(trials)} trials through and saved"
            f" {saved:.0%} of the epochs: set search.rungs lower, or a larger"
            " search.reduction_factor."
        ]
    if not (trials["state"] == State.COMPLETE).any() and search.pauses[-1] == search.epochs:
        furthest = int(reached["until"].max())
        return [
            f"No trial was trained to its last epoch, {search.epochs}: none came further than the"
            f" rung at {furthest}, so the ranking rests on short trainings; raise the budget"
            " (search.trials, search.total_epochs) or lower search.reduction_factor."
        ]
    return []


def stopped(trials: pd.DataFrame, search: Search) -> list[str]:
    """Whether the search has ended before its budget because nothing was gained any more."""
    if search.stop is None or search.total_epochs or len(trials) >= search.trials:
        return []
    return [
        f"The search stopped by itself after {len(trials)} of {search.trials} trials:"
        f" {search.stop.patience} in a row had not gained {search.stop.gain:g} nats (search.stop)."
    ]


def seed_noise(candidates: pd.DataFrame) -> list[str]:
    """Whether fresh seeds differ more than the candidates do."""
    ranked = candidates.dropna(subset="mean_nelbo_nats").sort_values("mean_nelbo_nats")
    if len(ranked) < 2:
        return []
    second = ranked.iloc[1]
    low, high = second["low_difference_nats"], second["high_difference_nats"]
    if pd.isna(second["image_error_nats"]):
        return []  # a single image says nothing of seeds either
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
    """Failed trials by reason, and what to do where there are no others."""
    failed = trials[trials["state"] == State.FAILED]
    reasons = failed["reason"].fillna("no reason given").value_counts(sort=False)
    lines = [
        f"{count} of {len(trials)} trials failed: {reason}"
        for reason, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    ]
    if len(trials) and not trials["state"].isin(RANKED).any():
        lines.append(
            "No trial has succeeded, so the winner is search.fallback, and the search has found"
            " nothing: narrow the ranges around it (a lower lr, if they diverged), search again."
        )
    return lines


def _ordered(domain: Domain) -> bool:
    """Ranges, and numbers to choose from of which there are at least three."""
    return not isinstance(domain, Choices) or (numeric(domain) and len(domain.choices) >= 3)
