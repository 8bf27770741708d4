"""What early stopping makes of a curve, without training: when it ends, and which epoch is kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.vae.schedule import Plateau, kl_warmup_end
from pipeline.vae.setting import Setting


@dataclass(frozen=True)
class Course:
    """A curve that was played forward, epoch by epoch."""

    over: list[bool]  # whether a training ends there
    kept: list[int]  # the epoch, from 1, whose weights are the result of one that ends there
    factors: list[float]  # of the learning rate, by the plateau schedule


def course(setting: Setting, epochs: int, curve: Sequence[Mapping[str, Any]]) -> Course:
    """Plays a curve of a training of at most `epochs` epochs forward."""
    plateau, first = Plateau(setting), kl_warmup_end(setting, epochs) + 1
    best, best_epoch, waited = math.inf, 0, 0
    played = Course([], [], [])
    for number, record in enumerate(curve, start=1):
        played.factors.append(plateau.factor)
        if number >= first:
            value = record["nelbo_nats" if setting.monitor == "total" else "recon_nats"]
            if setting.schedule == "plateau":
                plateau.observe(value)
            better = value < best - setting.min_delta
            best, waited = (value, 0) if better else (best, waited + 1)
            best_epoch = number if better else best_epoch
        patience = setting.patience
        stopped = patience is not None and waited > 0 and waited >= patience
        played.over.append(number >= epochs or stopped)
        played.kept.append(best_epoch if setting.restore_best and best_epoch else number)
    return played
