"""The continuous Bernoulli in terms of its logits l, stable around 0 and at the ends.

Loaiza-Ganem & Cunningham, arXiv 1907.06845: density C(λ) λ^x (1−λ)^(1−x) on [0, 1] with
λ = σ(l). Elementwise on tensors of any shape.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_LOGIT = 16.0  # float32 cannot tell λ = σ(16) from 1


def log_normalizer(logits: Tensor) -> Tensor:
    """log C = log(l / tanh(l/2)), |l| clamped to 16."""
    # Formula for |l| ≥ ½, series below (the formula is 0/0 at 0): each is clamped to its own
    # range and constant outside it, so that the two add up. `where` and the gradient of `clamp`
    # would take five times as long as `hardtanh` on the CPU.
    far, near = F.hardtanh(logits.abs(), 0.5, MAX_LOGIT), F.hardtanh(logits.abs(), 0, 0.5)
    joint = math.log(0.5 / math.tanh(0.25))
    series = _polynomial(near * near, (math.log(2), 1 / 12, -7 / 1440, 31 / 90720, -127 / 4838400))
    return torch.log(far / torch.tanh(far / 2)) + (series - joint)


def mean(logits: Tensor) -> Tensor:
    """1/(1 − e^−l) − 1/l, |l| clamped to 16."""
    logits = logits.clamp(-MAX_LOGIT, MAX_LOGIT)
    small = logits.abs() < 0.5  # there by the series: the formula is ∞ − ∞ at 0
    odd = _polynomial(logits * logits, (1 / 12, -1 / 720, 1 / 30240, -1 / 1209600))
    far = logits.masked_fill(small, 1)
    formula = torch.sigmoid(far) / torch.tanh(far / 2) - 1 / far
    return torch.where(small, 0.5 + logits * odd, formula)


def _polynomial(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """c₀ + c₁x + c₂x² + … by Horner's rule."""
    value = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value
