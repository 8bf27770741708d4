"""What the winner's own record says about the next sweep: plain sentences from plain data."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

LATE = 0.95  # of the budget: a best epoch beyond it might have been followed by better ones
TAIL = 0.1  # share of the epochs at the end over which the fall is told
FEW_UNITS = 0.5  # share of active latent units at or below which the rest are called idle
GAIN = 0.02  # of the mean image's NELBO: a winner that gains less has learned next to nothing
OVERFIT = 0.1  # gap of training and validation, as a share of what the winner gains
Z = 2.58  # two-sided 99 %


def short_training(run: pd.DataFrame, best_epoch: int | None, epochs: int) -> list[str]:
    """Whether the best epoch is among the last of the budget, with no sign that it was enough."""
    if best_epoch is None or best_epoch < LATE * epochs:
        return []
    values = run.set_index("epoch")["nelbo_nats"]
    before = max(values.index.min(), best_epoch - max(1, round(TAIL * epochs)))
    fall = values.loc[before] - values.loc[best_epoch]
    if fall <= 0:  # the weights of the last epoch were kept, or those with the best reconstruction
        return []
    return [
        f"The winner's best epoch is {best_epoch} of {epochs}, and since epoch {before} the"
        f" validation NELBO had fallen by {fall:.2f} nats: it may not have been trained to its end;"
        " raise retrain.epochs."
    ]


def overfitting(run: pd.DataFrame, best_epoch: int | None, mean_image: float) -> list[str]:
    """Whether training images are described better than others by a good part of the gain.

    The gain is what the winner is below the NELBO of the train-mean image; so the share means the
    same for every likelihood.
    """
    at_best = run[run["epoch"] == best_epoch] if best_epoch is not None else run.tail(1)
    row = at_best.iloc[0]
    gap, gain = row["nelbo_nats"] - row["train_nelbo_nats"], mean_image - row["nelbo_nats"]
    if gain <= 0 or gap <= OVERFIT * gain:
        return []
    return [
        f"At its best epoch the winner describes training images {gap:.2f} nats better than"
        f" validation images, {gap / gain:.0%} of all that it gains over the mean image: it"
        " overfits; use more images, fewer weights, weight_decay or a smaller latent_dim."
    ]


def idle_units(active: int, latent_dim: int, warmed_up: bool) -> list[str]:
    """Whether much of the latent space carries nothing."""
    if latent_dim < 2 or active > FEW_UNITS * latent_dim:
        return []
    other = "lengthen the KL warm-up" if warmed_up else "set kl_warmup: 0.2"
    return [
        f"{active} of {latent_dim} latent units are active: lower latent_dim towards"
        f" {max(1, active)}, or {other} if more of them should carry something."
    ]


def next_to_baselines(metrics: dict[str, Any]) -> list[str]:
    """Whether the mean image or PCA does nearly as well as the winner, or better."""
    baselines = metrics["baselines"]
    mean, own = baselines["mean_image_nelbo_nats"], metrics["nelbo_nats"]
    found = []
    if mean - own < GAIN * abs(mean):
        where = "next to" if own - mean < GAIN * abs(mean) else "above"
        found.append(
            f"The winner's test NELBO, {own:.2f} nats, is {where} that of the train-mean image,"
            f" {mean:.2f}: it tells images hardly apart; train longer, with kl_warmup or a lower"
            " beta."
        )
    components, pca = baselines["pca_components"], baselines["pca_mse_per_pixel"]
    if metrics["mse_per_pixel"] >= 0.95 * pca:
        how = "better than" if metrics["mse_per_pixel"] > 1.05 * pca else "as well as"
        found.append(
            f"PCA with {components} components reconstructs test images {how} the winner:"
            f" MSE per pixel {pca:.4f} against {metrics['mse_per_pixel']:.4f}; train longer or"
            " widen the layers, and see which latent units are active."
        )
    return found


def lucky_search(
    winner: dict[str, Any], interval: tuple[float, float] | None, searched: int, epochs: int
) -> list[str]:
    """Whether the search's value lies below all that fresh seeds make likely.

    After fewer `epochs` in the retraining than were `searched` it would without any luck.
    """
    value = winner.get("search_nelbo_nats")
    if value is None or interval is None or interval[0] <= value or epochs < searched:
        return []
    low, high = interval
    return [
        f"In the search the winner had {value:.2f} nats, on fresh seeds"
        f" {winner['mean_nelbo_nats']:.2f} ({low:.2f} … {high:.2f}): the search picked a lucky run;"
        " raise retrain.top, so that more of its best are tried again."
    ]


def worse_on_test(
    metrics: dict[str, Any], winner: dict[str, Any], sd: float, images: tuple[int, int]
) -> list[str]:
    """Whether test images cost more than validation images by more than two samples may differ.

    `sd` is the standard deviation of the NELBO over images, `images` how many validation and test
    images there are. Both means are over the same models, so that seeds play no part.
    """
    if "mean_nelbo_nats" not in winner or "nelbo_nats_mean" not in metrics.get("seeds", {}):
        return []
    gap = metrics["seeds"]["nelbo_nats_mean"] - winner["mean_nelbo_nats"]
    noise = sd * math.sqrt(1 / images[0] + 1 / images[1])
    if not gap > Z * noise:
        return []
    return [
        f"Test images cost {gap:.2f} nats more than validation images, and chance would explain"
        f" {Z * noise:.2f}: the test images differ from the others (another source, another time),"
        " or the validation images were chosen by too often; look at their samples."
    ]


def equal_candidates(candidates: pd.DataFrame) -> list[str]:
    """Whether fresh seeds could not tell any of the candidates apart."""
    if len(candidates) < 2 or not candidates["best_or_equal"].all():
        return []
    lowest = bool(candidates.loc[candidates["mean_nelbo_nats"].idxmin(), "winner"])
    how = "has the lowest mean perhaps by chance" if lowest else "was chosen by its size"
    return [
        f"All {len(candidates)} candidates are equal within the noise of seeds and images, so the"
        f" winner {how}: the ranking of the search means little; prefer what is cheapest, or raise"
        " retrain.seeds."
    ]
