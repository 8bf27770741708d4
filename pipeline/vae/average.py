"""The average of a training's weights: a better model than its last step's, at any time.

At a constant learning rate the weights circle around a minimum, and their average lies nearer to
it. With polynomial decay its window grows with the training, so that it needs no horizon, unlike
an annealed learning rate (Shamir & Zhang, arXiv 1212.1824, section 4.1). The running statistics of
batch norm are averaged like weights.
"""

from __future__ import annotations

import copy

import torch

from pipeline.vae.model import VAE

STRIDE = 8  # steps: neighbours hardly differ, and to average is bound by memory


class WeightAverage:
    """Weighs the weights after step t of T by about (t/T)**exponent."""

    def __init__(self, vae: VAE, exponent: float):
        self.vae = copy.deepcopy(vae)
        self._exponent = exponent
        mine, theirs = self.vae.state_dict(), vae.state_dict()
        averaged = [name for name, value in theirs.items() if _averaged(name, value)]
        self._means = [mine[name] for name in averaged]
        self._values = [theirs[name] for name in averaged]
        self._copied = [(mine[name], theirs[name]) for name in theirs.keys() - set(averaged)]

    def update(self, count: int) -> None:
        """Takes the current weights in, as number `count` (from 1)."""
        weight = (self._exponent + 1) / (count + self._exponent)
        torch._foreach_lerp_(self._means, self._values, weight)

    def end_epoch(self) -> None:
        """Takes over what is no weight: counters and the likelihood's statistics."""
        for mine, theirs in self._copied:
            mine.copy_(theirs)


def _averaged(name: str, value: torch.Tensor) -> bool:
    """Weights and the running statistics of batch norm."""
    return value.is_floating_point() and not name.startswith("likelihood.")
