"""The special functions against torch in float64 and against quadrature."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline.vae.likelihood import build_likelihood
from pipeline.vae.special import softplus


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_softplus_is_exact_to_one_rounding_at_any_size(dtype: torch.dtype) -> None:
    logits = torch.cat([torch.linspace(-120, 120, 4801), torch.tensor([-1e30, 1e30])]).to(dtype)
    expected = torch.nn.functional.softplus(logits.double(), threshold=1e9)
    expected[-1] = 1e30
    torch.testing.assert_close(
        softplus(logits).double(), expected, rtol=1e-6, atol=torch.finfo(dtype).eps
    )


def test_softplus_can_be_differentiated_twice() -> None:
    logits = torch.linspace(-5, 5, 11, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(softplus, logits)
    assert torch.autograd.gradgradcheck(softplus, logits)


def test_softplus_passes_a_divergence_on() -> None:
    assert softplus(torch.tensor(float("nan"))).isnan()


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
