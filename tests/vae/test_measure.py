"""Figures against closed forms: models whose posterior, evidence or errors are known exactly."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, distributions, nn
from trainings import digits, run, training

from pipeline.vae import measure
from pipeline.vae.likelihood import Bernoulli, Binarized, Gaussian, Likelihood
from pipeline.vae.measure import (
    binarize,
    elbo,
    iw_nll,
    mean_image_nelbo,
    pixels,
    posterior_means,
    reconstruction_errors,
    seen,
)
from pipeline.vae.model import VAE, Encoder

SHAPE = (1, 2, 3)
PIXELS, LATENT, SIGMA = 6, 2, 0.4


def images(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *SHAPE), generator=generator, dtype=torch.uint8)


def linear_vae(mu: Tensor, log_var: Tensor, weight: Tensor, bias: Tensor, p: Likelihood) -> VAE:
    """mu (latent, pixels + 1) maps pixels and 1 to μ; log σ² (latent,) is constant; the decoder
    is weight (pixels, latent) and bias (pixels,)."""
    encoder = Encoder(nn.Flatten(), PIXELS, LATENT)
    decoder = nn.Sequential(nn.Linear(LATENT, PIXELS), nn.Unflatten(1, SHAPE))
    vae = VAE(SHAPE, LATENT, encoder, decoder, p)
    values = {
        "encoder.mu.weight": mu[:, :-1],
        "encoder.mu.bias": mu[:, -1],
        "encoder.log_var.weight": torch.zeros(LATENT, PIXELS),
        "encoder.log_var.bias": log_var,
        "decoder.0.weight": weight,
        "decoder.0.bias": bias,
    }
    vae.load_state_dict(values)
    return vae


@cache
def factor_analysis() -> tuple[VAE, distributions.MultivariateNormal]:
    """A VAE whose encoder is the exact posterior, and the evidence p(x) = N(b, WWᵀ + σ²I).

    With orthogonal columns the posterior of a linear decoder is diagonal: its precision is
    1 + |w_j|²/σ², its mean is σ_j² w_jᵀ(x − b)/σ² (Bishop, Pattern Recognition, 12.2).
    """
    generator = torch.Generator().manual_seed(3)
    weight = torch.linalg.qr(torch.randn(PIXELS, LATENT, generator=generator)).Q
    weight = weight * torch.tensor([0.8, 0.3])
    bias = torch.rand(PIXELS, generator=generator)
    variance = 1 / (1 + weight.square().sum(0) / SIGMA**2)
    slope = variance[:, None] * weight.T / SIGMA**2  # (latent, pixels)
    mu = torch.cat([slope, -(slope @ bias)[:, None]], dim=1)
    vae = linear_vae(mu, variance.log(), weight, bias, Gaussian(SIGMA))
    evidence = distributions.MultivariateNormal(
        bias.double(), (weight @ weight.T + SIGMA**2 * torch.eye(PIXELS)).double()
    )
    return vae, evidence


def blind_vae() -> tuple[VAE, Tensor]:
    """A collapsed VAE: its posterior is the prior and its decoder ignores z; and its logits."""
    logits = torch.linspace(-2, 2, PIXELS)
    nothing = torch.zeros(LATENT, PIXELS + 1)
    weight = torch.zeros(PIXELS, LATENT)
    return linear_vae(nothing, torch.zeros(LATENT), weight, logits, Bernoulli()), logits


def cross_entropy(logits: Tensor, x: Tensor) -> Tensor:
    flat = x.flatten(1)
    terms = F.binary_cross_entropy_with_logits(logits.expand_as(flat), flat, reduction="none")
    return terms.double().sum(1)


@cache
def trained() -> VAE:
    return run(training(lr=1e-2, batch_size=16, epochs=8)).vae


def test_nelbo_of_the_exact_posterior_is_the_evidence() -> None:
    vae, evidence = factor_analysis()
    x = images(50)
    parts = elbo(vae, x, seed=0, samples=400)
    expected = -evidence.log_prob(pixels(x).flatten(1).double())
    torch.testing.assert_close(parts.nelbo_nats, expected, rtol=0, atol=0.5)
    assert parts.nelbo_nats.mean().item() == pytest.approx(expected.mean().item(), abs=0.05)


@pytest.mark.parametrize("samples", [1, 2, 30])
def test_importance_weighted_bound_of_the_exact_posterior_is_the_evidence_for_any_k(
    samples: int,
) -> None:
    """Every weight p(x, z)/q(z|x) is p(x) itself, whatever z is drawn."""
    vae, evidence = factor_analysis()
    x = images(50)
    expected = -evidence.log_prob(pixels(x).flatten(1).double())
    torch.testing.assert_close(iw_nll(vae, x, 1, samples), expected, rtol=0, atol=1e-4)


def test_a_collapsed_model_costs_its_cross_entropy_and_no_kl() -> None:
    vae, logits = blind_vae()
    x = images(30)
    parts = elbo(vae, x, seed=0)
    expected = cross_entropy(logits, pixels(x))
    torch.testing.assert_close(parts.recon_nats, expected, rtol=0, atol=1e-5)
    assert parts.kl_nats.tolist() == [0.0] * 30
    assert parts.active_units == 0
    assert parts.mu_std == parts.log_var_mean == 0
    for samples in (1, 7):
        torch.testing.assert_close(iw_nll(vae, x, 0, samples), expected, rtol=0, atol=1e-5)


def test_kl_is_torchs_and_summed_over_dimensions() -> None:
    vae, _ = factor_analysis()
    x = images(40)
    with torch.no_grad():
        mu, log_var = vae.encode(pixels(x))
    prior = distributions.Normal(0, 1)
    expected = distributions.kl_divergence(distributions.Normal(mu, (log_var / 2).exp()), prior)
    parts = elbo(vae, x, seed=0)
    torch.testing.assert_close(parts.kl_nats, expected.double().sum(1), rtol=0, atol=1e-5)
    torch.testing.assert_close(parts.kl_per_dim, expected.double().mean(0), rtol=0, atol=1e-5)
    assert parts.log_var_mean == pytest.approx(log_var.mean().item())
    assert parts.mu_std == pytest.approx(mu.std(unbiased=False).item())


def test_the_parts_add_up_over_the_whole_split() -> None:
    parts = elbo(trained(), digits()[1], seed=0)
    summary = parts.summary()
    assert summary["nelbo_nats"] == summary["recon_nats"] + summary["kl_nats"]
    assert summary["nelbo_nats"] == pytest.approx(parts.nelbo_nats.mean().item())
    assert parts.kl_per_dim.sum().item() == pytest.approx(summary["kl_nats"])
    assert len(parts.nelbo_nats) == len(digits()[1])


def test_one_weighted_sample_is_the_nelbo_on_average() -> None:
    """E[−log p(x, z)/q(z|x)] = E_q[−log p(x|z)] + KL, an equality of means over noise."""
    vae = trained()
    x = digits()[1].repeat(40, 1, 1, 1)
    one, nelbo = iw_nll(vae, x, 0, samples=1), elbo(vae, x, seed=1).nelbo_nats
    difference = one - nelbo
    error = difference.std().item() / math.sqrt(len(difference))
    assert error < 0.1
    assert abs(difference.mean().item()) < 4 * error


def test_the_bound_tightens_with_k() -> None:
    x = digits()[1].repeat(10, 1, 1, 1)
    values = [iw_nll(trained(), x, 0, samples).mean().item() for samples in (1, 3, 10, 100)]
    assert values == sorted(values, reverse=True)
    assert values[0] - values[-1] > 0.1


def test_more_samples_are_a_mean_with_less_noise() -> None:
    x = digits()[1][:1].repeat(500, 1, 1, 1)
    one = elbo(trained(), x, seed=0).recon_nats
    many = elbo(trained(), x, seed=0, samples=16).recon_nats
    assert many.mean().item() == pytest.approx(
        one.mean().item(), abs=4 * one.std().item() / 500**0.5
    )
    assert many.std().item() == pytest.approx(one.std().item() / 4, rel=0.2)


@pytest.mark.parametrize(("scale", "active"), [(0.0, 0), (0.3, 0), (0.4, 1), (3.0, 1)])
def test_active_units_are_those_whose_mean_varies_between_images(scale: float, active: int) -> None:
    """A uniform 8-bit pixel has variance 1/12: 0.3² / 12 is below 0.01, 0.4² / 12 above."""
    mu = torch.zeros(LATENT, PIXELS + 1)
    mu[0, 0] = scale  # of the first pixel
    mu[1, -1] = 5.0  # far off the prior, but the same for all images
    vae = linear_vae(
        mu, torch.zeros(LATENT), torch.zeros(PIXELS, LATENT), torch.zeros(PIXELS), Bernoulli()
    )
    x = images(4000)
    parts = elbo(vae, x, seed=0)
    assert parts.active_units == active
    means = posterior_means(vae, x, seed=0)
    torch.testing.assert_close(parts.mean_variance, means.double().var(0, unbiased=False))
    torch.testing.assert_close(means[:, 0], scale * pixels(x)[:, 0, 0, 0])


def test_errors_are_those_of_the_mean_image_decoded_from_mu() -> None:
    vae, _ = factor_analysis()
    x = images(30)
    flat = pixels(x).flatten(1)
    with torch.no_grad():
        difference = vae.decode(vae.encode(pixels(x))[0]).flatten(1) - flat
    squared, absolute = reconstruction_errors(vae, x, seed=0)
    torch.testing.assert_close(squared, difference.square().mean(1).double())
    torch.testing.assert_close(absolute, difference.abs().mean(1).double())
    bernoulli, logits = blind_vae()
    squared, _ = reconstruction_errors(bernoulli, x, seed=0)
    expected = (torch.sigmoid(logits) - flat).square().mean(1)
    torch.testing.assert_close(squared, expected.double())
    bernoulli.likelihood = Binarized()  # seen binarized, compared with grey
    squared, _ = reconstruction_errors(bernoulli, x, seed=0)
    torch.testing.assert_close(squared, expected.double())


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_the_batch_of_a_measurement_changes_no_figure(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of models that draw, those whose figures do not depend on the draws."""
    (exact, _), (blind, _), x = factor_analysis(), blind_vae(), images(101)

    def figures() -> list[Tensor]:
        parts = elbo(blind, x, seed=0, samples=2)
        return [
            elbo(exact, x, seed=0).kl_nats,
            iw_nll(exact, x, 0, 5),
            parts.recon_nats,
            posterior_means(exact, x, seed=0),
            *reconstruction_errors(exact, x, seed=0),
            torch.tensor(mean_image_nelbo(blind, x, images(33, seed=1), 0)),
        ]

    expected = figures()
    monkeypatch.setattr(measure, "BATCH", batch)
    for figure, whole in zip(figures(), expected, strict=True):
        torch.testing.assert_close(figure, whole, rtol=0, atol=1e-5)


def test_binarization_is_fixed_by_the_seed_and_true_to_the_grey_values() -> None:
    vae = training(likelihood="binarized").vae
    x = digits()[1]
    first, again, other = (torch.cat(list(seen(vae, x, seed))) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    grey = torch.tensor([0.0, 0.25, 1.0]).expand(20_000, 3)
    share = binarize(grey, torch.Generator().manual_seed(0)).mean(0)
    assert share.tolist() == pytest.approx([0, 0.25, 1], abs=0.015)
    assert share[0] == 0
    assert share[2] == 1


def test_measuring_is_repeatable_and_disturbs_nobody() -> None:
    x = digits()[1]
    state = torch.get_rng_state()
    first, again, other = (elbo(trained(), x, seed).recon_nats for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(iw_nll(trained(), x, 0, 3), iw_nll(trained(), x, 0, 3))


def test_mean_image_costs_its_own_cross_entropy() -> None:
    train, validation = digits()
    mean = (train.double().mean(0) / 255).clamp(1e-4, 1 - 1e-4).flatten()
    expected = cross_entropy(torch.logit(mean).float(), pixels(validation)).mean().item()
    vae = training().vae
    assert mean_image_nelbo(vae, train, validation, 0) == pytest.approx(expected, abs=1e-3)


def test_mean_image_of_a_gaussian_costs_its_squared_error() -> None:
    train, validation = digits()
    squared = ((train.double().mean(0) - validation.double()) / 255).square().sum((1, 2, 3)).mean()
    expected = squared.item() / (2 * 0.3**2) + 32 * math.log(2 * math.pi * 0.3**2)
    vae = training(likelihood="gaussian", sigma=0.3).vae
    assert mean_image_nelbo(vae, train, validation, 0) == pytest.approx(expected, abs=1e-3)


def test_mean_image_has_its_own_optimal_sigma_whatever_the_model_has_learned() -> None:
    """A model's small σ would make the mean image look worse than it is, and the gate too lax."""
    train, validation = digits()
    mean = train.double().mean(0)
    sigma2 = ((train.double() - mean) / 255).square().mean().item()
    squared = ((validation.double() - mean) / 255).square().sum((1, 2, 3)).mean().item()
    expected = squared / (2 * sigma2) + 32 * math.log(2 * math.pi * sigma2)
    fresh = training(likelihood="gaussian", sigma="optimal")
    assert mean_image_nelbo(fresh.vae, train, validation, 0) == pytest.approx(expected, abs=1e-3)
    learned = run(training(likelihood="gaussian", sigma="optimal", lr=1e-2, batch_size=16))
    before = {name: value.clone() for name, value in learned.vae.state_dict().items()}
    assert mean_image_nelbo(learned.vae, train, validation, 0) == pytest.approx(expected, abs=1e-3)
    assert all(torch.equal(before[k], v) for k, v in learned.vae.state_dict().items())
