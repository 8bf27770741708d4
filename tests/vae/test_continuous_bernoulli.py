"""The continuous Bernoulli against quadrature and at its limits."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline.vae.likelihood import build_likelihood


@pytest.mark.parametrize("logit", [-16.0, -3.0, -0.5, -0.499, -1e-5, 0.0, 0.01, 0.5, 8.0])
def test_continuous_bernoulli_integrates_to_one_with_the_stated_mean(logit: float) -> None:
    likelihood = build_likelihood("continuous_bernoulli")
    x = ((torch.arange(40_000, dtype=torch.float64) + 0.5) / 40_000).view(-1, 1, 1, 1)
    out = torch.full_like(x, logit)
    density = torch.exp(-likelihood.nll(out, x))
    assert density.mean().item() == pytest.approx(1, abs=1e-7)
    mean = (density * x.flatten()).mean().item()
    assert likelihood.mean(out)[0].item() == pytest.approx(mean, abs=1e-7)
    single = likelihood.mean(out[:1].float()).item()
    assert single == pytest.approx(mean, abs=1e-6)


def test_continuous_bernoulli_is_bounded_at_exact_pixels_and_keeps_its_gradient() -> None:
    likelihood = build_likelihood("continuous_bernoulli")
    out = torch.tensor([40.0, 40.0]).view(2, 1, 1, 1).requires_grad_()
    nll = likelihood.nll(out, torch.tensor([0.0, 1.0]).view(2, 1, 1, 1))
    assert nll.tolist() == pytest.approx([40 - math.log(16), -math.log(16)], abs=1e-5)
    nll.sum().backward()
    assert out.grad is not None
    assert out.grad.flatten().tolist() == pytest.approx([1, 0], abs=1e-6)
