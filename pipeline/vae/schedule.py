"""Learning rates and KL weights, step by step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.settings.hyperparameters import Hyperparameters
    from pipeline.vae.setting import Setting


def lr_factor(setting: Setting, step: int, total: int) -> float:
    """The learning rate of `step` (from 0) of `total` steps, as a share of `lr`.

    constant and cosine rise linearly over the first `lr_warmup` of the steps; cosine then falls to
    0 (Loshchilov & Hutter, arXiv 1608.03983); one_cycle is the 30 % cosine rise from 1/25 and fall
    to 1e-4 / 25 of Smith & Topin (arXiv 1708.07120). plateau is constant here: see `Plateau`.
    """
    kind = setting.schedule
    if kind == "one_cycle":
        return _one_cycle(step / max(total - 1, 1))
    if kind == "plateau":
        return 1.0
    warmup = setting.lr_warmup * total
    if step < warmup:
        return (step + 1) / (math.floor(warmup) + 1)
    if kind == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def kl_weight(setting: Setting, step: int, total: int, steps_an_epoch: int) -> float:
    """The weight of the KL in the loss of `step`: linear from 0 to beta, then beta.

    By share of the steps the weight rises every step; by epochs it is constant within an epoch
    and epoch e (from 1) has min(1, e / kl_warmup_epochs).
    """
    beta = setting.beta
    if setting.kl_warmup_epochs:
        epochs = (step // steps_an_epoch + 1) / setting.kl_warmup_epochs
        return beta * min(1.0, epochs)
    if setting.kl_warmup:
        steps = (step + 1) / (setting.kl_warmup * total)
        return beta * min(1.0, steps)
    return beta


def kl_warmup_end(setting: Setting | Hyperparameters, epochs: int) -> int:
    """The last epoch (from 1) that begins before the KL weight has reached beta; 0: none.

    Best weights, early stopping and pruning count from the next epoch on: before it a small KL
    weight flatters the trained loss and harms the true NELBO.
    """
    if setting.kl_warmup_epochs:
        return min(setting.kl_warmup_epochs - 1, epochs)
    return math.ceil(setting.kl_warmup * epochs - 1e-9)  # 0.07 * 100 > 7 in floating point


class Plateau:
    """Multiplies the rate by `factor` in every `patience`-th epoch without a better value in a row.

    Better by more than `min_delta` nats, and counted as early stopping counts (and Keras; torch's
    ReduceLROnPlateau waits an epoch longer and wants a relative improvement).
    """

    def __init__(self, setting: Setting | Hyperparameters):
        self._setting = setting
        self.factor = 1.0
        self.best = math.inf
        self.waited = 0

    def observe(self, value: float) -> None:
        """Takes the monitored value of an epoch."""
        if value < self.best - self._setting.min_delta:
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited >= self._setting.plateau_patience:
            floor = self._setting.plateau_floor / self._setting.lr
            self.factor = max(self.factor * self._setting.plateau_factor, min(floor, self.factor))
            self.waited = 0

    def state(self) -> list[float]:
        return [self.factor, self.best, self.waited]

    def restore(self, state: list[float]) -> None:
        self.factor, self.best, self.waited = state[0], state[1], int(state[2])


def _one_cycle(position: float) -> float:
    rise, start, end = 0.3, 1 / 25, 1e-4 / 25
    if position <= rise:
        return _cosine_between(start, 1.0, position / rise)
    return _cosine_between(1.0, end, (position - rise) / (1 - rise))


def _cosine_between(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
