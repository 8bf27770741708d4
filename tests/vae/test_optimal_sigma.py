"""The Gaussian with one shared optimal variance, in training, in evaluation and across restarts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pipeline.vae.likelihood import MIN_SIGMA2, Gaussian, OptimalGaussian


def draw(seed: int = 0) -> tuple[Tensor, Tensor]:
    """A decoder output and images, each (5, 3, 4, 2), float64."""
    generator = torch.Generator().manual_seed(seed)
    out = torch.randn(5, 3, 4, 2, generator=generator, dtype=torch.float64)
    return out, torch.rand(5, 3, 4, 2, generator=generator, dtype=torch.float64)


def test_optimal_sigma_makes_the_sum_over_the_batch_analytic() -> None:
    out, x = draw()
    likelihood = OptimalGaussian()
    mse = (out - x).square().mean().item()
    nll = likelihood.nll(out, x)
    assert nll.shape == (5,)
    assert nll.sum().item() == pytest.approx(x.numel() / 2 * (math.log(2 * math.pi * mse) + 1))
    torch.testing.assert_close(nll, Gaussian(math.sqrt(mse)).nll(out, x))
    assert torch.autograd.gradcheck(lambda o: likelihood.nll(o, x), out.requires_grad_())


def test_optimal_sigma_of_an_epoch_is_its_mean_squared_error_for_evaluation() -> None:
    likelihood = OptimalGaussian()
    batches = [draw(seed) for seed in range(3)]
    batches[-1] = (batches[-1][0][:2], batches[-1][1][:2])  # a smaller last batch counts less
    for out, x in batches:
        likelihood.nll(out, x)
    likelihood.end_epoch()
    errors = torch.cat([(out - x).flatten() for out, x in batches])
    sigma2 = errors.square().mean().item()
    assert likelihood.sigma2.item() == pytest.approx(sigma2)
    likelihood.eval()
    out, x = draw(7)
    torch.testing.assert_close(
        likelihood.nll(out, x), Gaussian(math.sqrt(sigma2)).nll(out, x), rtol=1e-6, atol=1e-6
    )
    likelihood.end_epoch()  # without training since: σ² stays
    assert likelihood.sigma2.item() == pytest.approx(sigma2)
    spread = likelihood.sample(torch.zeros(1, 1, 200, 200), torch.Generator().manual_seed(0)).std()
    assert spread.item() == pytest.approx(math.sqrt(sigma2), rel=0.02)


def test_optimal_sigma_starts_each_epoch_anew_and_travels_in_the_state() -> None:
    first, second = OptimalGaussian(), OptimalGaussian()
    out, x = draw()
    first.nll(out + 3, x)
    first.end_epoch()
    second.load_state_dict(first.state_dict())
    for likelihood in (first, second):
        likelihood.nll(out, x)
        likelihood.end_epoch()
    assert torch.equal(first.sigma2, second.sigma2)
    assert first.sigma2.item() == pytest.approx((out - x).square().mean().item())


def test_optimal_sigma_stops_at_the_rounding_of_pixels() -> None:
    x = torch.zeros(4, 1, 2, 2)
    likelihood = OptimalGaussian()
    nll = likelihood.nll(x, x)
    likelihood.end_epoch()
    assert likelihood.sigma2.item() == pytest.approx(MIN_SIGMA2)
    torch.testing.assert_close(nll, likelihood.eval().nll(x, x))
