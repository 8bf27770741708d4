"""What early stopping makes of a curve: when a training ends, and which epoch is kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.vae.schedule import Plateau, kl_warmup_end

if TYPE_CHECKING:
    from pipeline.settings.hyperparameters import Hyperparameters
    from pipeline.vae.setting import Setting


class Course:
    """Where a training of at most `epochs` epochs stands, by the records of those behind it."""

    def __init__(self, setting: Setting | Hyperparameters, epochs: int):
        self._setting, self._epochs = setting, epochs
        self.first = kl_warmup_end(setting, epochs) + 1  # the epoch from which all of this counts
        self.plateau = Plateau(setting)
        self.epoch = 0
        self.best_epoch = 0  # 0: none yet
        self._best, self._waited = math.inf, 0

    def observe(self, record: Mapping[str, Any]) -> bool:
        """Takes the next epoch; whether it is the best so far."""
        self.epoch += 1
        if self.epoch < self.first:
            return False
        value = record["nelbo_nats" if self._setting.monitor == "total" else "recon_nats"]
        if self._setting.schedule == "plateau":
            self.plateau.observe(value)
        if value < self._best - self._setting.min_delta:
            self._best, self._waited, self.best_epoch = value, 0, self.epoch
            return True
        self._waited += 1
        return False

    @property
    def over(self) -> bool:
        """Whether the budget is spent or early stopping has struck."""
        patience = self._setting.patience
        stopped = patience is not None and self._waited > 0 and self._waited >= patience
        return self.epoch >= self._epochs or stopped

    @property
    def kept(self) -> int:
        """The epoch, from 1, whose weights are the result of a training that ends here."""
        restores = self._setting.restore_best and self.best_epoch
        return self.best_epoch if restores else self.epoch

    def state(self) -> list[float]:
        """For a checkpoint, beside the records and the state of the plateau."""
        return [self.best_epoch, self._best, self._waited]

    def restore(self, epoch: int, state: Sequence[float]) -> None:
        self.epoch, self._best = epoch, state[1]
        self.best_epoch, self._waited = int(state[0]), int(state[2])


@dataclass(frozen=True)
class Played:
    """A curve that was played forward, epoch by epoch."""

    over: list[bool]  # whether a training ends there
    kept: list[int]  # the epoch, from 1, whose weights are the result of one that ends there
    factors: list[float]  # of the learning rate, by the plateau schedule


def play(
    setting: Setting | Hyperparameters, epochs: int, curve: Sequence[Mapping[str, Any]]
) -> Played:
    """Plays a curve of a training of at most `epochs` epochs forward, without training."""
    course, found = Course(setting, epochs), Played([], [], [])
    for record in curve:
        found.factors.append(course.plateau.factor)
        course.observe(record)
        found.over.append(course.over)
        found.kept.append(course.kept)
    return found
