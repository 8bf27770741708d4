"""Every likelihood against torch.distributions, closed forms and its own samples."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, distributions

from pipeline.vae.likelihood import OptimalGaussian, build_likelihood

NAMES = [
    "bernoulli",
    "binarized",
    "gaussian",
    "laplace",
    "continuous_bernoulli",
    "discretized_logistic",
]
SHAPE = (5, 3, 4, 2)  # (batch, C, H, W)


def draw(name: str, seed: int = 0, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """A decoder output and images of the kind that the likelihood takes, float64."""
    generator = torch.Generator().manual_seed(seed)
    likelihood = build_likelihood(name)
    batch, channels, height, width = SHAPE
    out_shape = (batch, likelihood.maps * channels, height, width)
    out = scale * torch.randn(out_shape, generator=generator, dtype=torch.float64)
    x = torch.rand(SHAPE, generator=generator, dtype=torch.float64)
    if likelihood.binarizes:
        x = x.round()
    return out, (x * 255).round() / 255


def total(log_prob: Tensor) -> Tensor:
    return -log_prob.flatten(1).sum(1)


def test_bernoulli_is_the_cross_entropy_of_grey_pixels() -> None:
    out, x = draw("bernoulli", scale=4)
    expected = total(distributions.Bernoulli(logits=out, validate_args=False).log_prob(x))
    torch.testing.assert_close(build_likelihood("bernoulli").nll(out, x), expected)


def test_bernoulli_is_exact_for_saturated_logits_in_float32() -> None:
    logits = torch.tensor([-100.0, -20.0, 20.0, 100.0]).view(4, 1, 1, 1)
    nll = build_likelihood("bernoulli").nll(logits, torch.full_like(logits, 0.25))
    torch.testing.assert_close(nll, torch.tensor([25.0, 5.0, 15.0, 75.0]))


def test_binarized_is_bernoulli_and_says_that_it_binarizes() -> None:
    out, x = draw("binarized")
    bernoulli = build_likelihood("bernoulli")
    torch.testing.assert_close(build_likelihood("binarized").nll(out, x), bernoulli.nll(out, x))
    assert [name for name in NAMES if build_likelihood(name).binarizes] == ["binarized"]


@pytest.mark.parametrize("sigma", [None, 0.1, 2])
def test_gaussian_is_the_normal_density(sigma: float | None) -> None:
    out, x = draw("gaussian")
    expected = total(distributions.Normal(out, sigma or math.sqrt(0.5)).log_prob(x))
    torch.testing.assert_close(build_likelihood("gaussian", sigma).nll(out, x), expected)


def test_default_gaussian_is_the_squared_error_up_to_a_constant() -> None:
    out, x = draw("gaussian")
    squared_error = (out - x).square().flatten(1).sum(1)
    constant = 0.5 * x[0].numel() * math.log(math.pi)
    torch.testing.assert_close(build_likelihood("gaussian").nll(out, x), squared_error + constant)


def test_laplace_is_the_density_of_scale_one() -> None:
    out, x = draw("laplace")
    expected = total(distributions.Laplace(out, 1.0).log_prob(x))
    torch.testing.assert_close(build_likelihood("laplace").nll(out, x), expected)


def test_continuous_bernoulli_is_the_density_of_torch() -> None:
    out, x = draw("continuous_bernoulli", scale=2)
    expected = total(distributions.ContinuousBernoulli(logits=out).log_prob(x))
    torch.testing.assert_close(build_likelihood("continuous_bernoulli").nll(out, x), expected)


def grey_levels(m: float, log_s: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """All 256 grey levels as images (256, 1, 1, 1) and an output of mean m and scale log_s."""
    x = torch.arange(256, dtype=dtype).view(-1, 1, 1, 1) / 255
    out = torch.tensor([4 * (m - 0.5), log_s + 1.5], dtype=dtype).view(1, 2, 1, 1)
    return out.expand(256, -1, -1, -1), x


@pytest.mark.parametrize("m", [-2.0, 0.0, 0.2, 0.5, 1.0, 1.3])
@pytest.mark.parametrize("log_s", [-8.0, -5.0, -1.5, 5.0])
def test_discretized_logistic_is_a_distribution_over_256_values(m: float, log_s: float) -> None:
    likelihood = build_likelihood("discretized_logistic")
    out, x = grey_levels(m, log_s, torch.float64)
    probabilities = torch.exp(-likelihood.nll(out, x))
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-12)
    edges = (torch.arange(255, dtype=torch.float64) + 0.5) / 255
    below = torch.sigmoid((edges - m) / math.exp(log_s))
    cdf = torch.cat([torch.zeros(1, dtype=torch.float64), below, torch.ones(1).double()])
    torch.testing.assert_close(probabilities, cdf.diff(), rtol=1e-6, atol=1e-12)
    exact = (probabilities * x.flatten()).sum().item()
    assert likelihood.mean(out)[0].item() == pytest.approx(exact, abs=0.5 / 255)


@pytest.mark.parametrize("log_s", [-8.0, -1.5, 5.0])
def test_discretized_logistic_is_finite_in_float32_far_from_the_data(log_s: float) -> None:
    likelihood = build_likelihood("discretized_logistic")
    out, x = grey_levels(-30.0, log_s, torch.float32)
    out = out.clone().requires_grad_()
    nll = likelihood.nll(out, x)
    expected = likelihood.nll(*grey_levels(-30.0, log_s, torch.float64))
    torch.testing.assert_close(nll.double(), expected, rtol=1e-4, atol=2e-3)
    nll.sum().backward()
    assert out.grad is not None
    assert torch.isfinite(out.grad).all()
    assert (out.grad[1:, 0] < 0).all()  # towards the data


def test_discretized_logistic_clamps_the_scale_and_starts_broad() -> None:
    likelihood = build_likelihood("discretized_logistic")
    out, x = grey_levels(0.5, -100.0, torch.float64)
    torch.testing.assert_close(
        likelihood.nll(out, x), likelihood.nll(*grey_levels(0.5, -8.0, torch.float64))
    )
    start = likelihood.nll(torch.zeros(256, 2, 1, 1, dtype=torch.float64), x)
    assert start.max().item() / math.log(2) < 10  # bits, where the uniform distribution has 8


@pytest.mark.parametrize("name", NAMES)
def test_gradients(name: str) -> None:
    out, x = draw(name, scale=2)
    likelihood = build_likelihood(name)
    assert torch.autograd.gradcheck(lambda o: likelihood.nll(o, x), out.requires_grad_())


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_outputs_are_summed_in_float32(name: str) -> None:
    out, x = (tensor.float() for tensor in draw(name))
    half = out.bfloat16().requires_grad_()
    likelihood = build_likelihood(name)
    nll = likelihood.nll(half, x)
    assert nll.dtype == torch.float32
    assert torch.equal(nll, likelihood.nll(half.float(), x))
    nll.sum().backward()
    assert half.grad is not None
    assert half.grad.dtype == torch.bfloat16
    assert likelihood.mean(half).dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("level", [-1.2, 0.0, 0.9])
def test_samples_have_the_stated_mean_and_follow_the_generator(name: str, level: float) -> None:
    likelihood = build_likelihood(name)
    out = torch.full((1, likelihood.maps, 200, 200), level)
    sample = likelihood.sample(out, torch.Generator().manual_seed(1))
    assert sample.shape == (1, 1, 200, 200)
    error = 5 * sample.std().item() / 200
    assert sample.mean().item() == pytest.approx(likelihood.mean(out).mean().item(), abs=error)
    assert torch.equal(sample, likelihood.sample(out, torch.Generator().manual_seed(1)))
    assert not torch.equal(sample, likelihood.sample(out, torch.Generator().manual_seed(2)))


@pytest.mark.parametrize(("name", "sigma"), [(name, None) for name in NAMES] + [("gaussian", 0.1)])
def test_samples_come_from_the_density_of_nll(name: str, sigma: float | None) -> None:
    # The mean NLL of own samples is the entropy, and that is least if both are one distribution:
    # compare with the entropy found by summing or integrating −p log p over a grid.
    likelihood = build_likelihood(name, sigma)
    out = torch.full((1, likelihood.maps, 1, 1), 0.7, dtype=torch.float64)
    levels = 2 if name in ("bernoulli", "binarized") else 256
    grid = torch.arange(levels, dtype=torch.float64) / (levels - 1)
    width = 1.0
    if name in ("gaussian", "laplace", "continuous_bernoulli"):
        low, high = (0, 1) if name == "continuous_bernoulli" else (-25, 25)
        width = (high - low) / 200_000
        grid = low + (torch.arange(200_000, dtype=torch.float64) + 0.5) * width
    nll = likelihood.nll(out.expand(len(grid), -1, -1, -1), grid.view(-1, 1, 1, 1))
    entropy = (torch.exp(-nll) * nll).sum().item() * width
    many = out.expand(40_000, -1, -1, -1)
    seen = likelihood.nll(many, likelihood.sample(many, torch.Generator().manual_seed(3)))
    assert seen.mean().item() == pytest.approx(entropy, abs=5 * seen.std().item() / 200 + 1e-9)


def test_samples_lie_in_the_data_range() -> None:
    for name in ("bernoulli", "binarized", "continuous_bernoulli", "discretized_logistic"):
        likelihood = build_likelihood(name)
        out = 30 * torch.randn(50, likelihood.maps, 8, 8)
        sample = likelihood.sample(out, torch.Generator().manual_seed(0))
        assert sample.min() >= 0
        assert sample.max() <= 1
        if name != "continuous_bernoulli":
            torch.testing.assert_close(sample * 255, (sample * 255).round())


@pytest.mark.parametrize("name", [name for name in NAMES if name != "discretized_logistic"])
def test_constant_predicts_the_mean_image(name: str) -> None:
    likelihood = build_likelihood(name)
    mean_image = torch.linspace(0.08, 0.92, 24).view(3, 4, 2)
    out = likelihood.constant(mean_image)
    assert out.shape == (1, 3, 4, 2)
    assert out.dtype == mean_image.dtype
    torch.testing.assert_close(likelihood.mean(out)[0], mean_image, atol=1e-5, rtol=0)


def test_discretized_constant_is_centred_at_the_mean_with_the_spread_of_the_image() -> None:
    mean_image = torch.tensor([[[0.1, 0.3]], [[0.5, 0.9]]])  # (2, 1, 2)
    out = build_likelihood("discretized_logistic").constant(mean_image)
    assert out.shape == (1, 4, 1, 2)
    m, log_s = 0.5 + out[0, :2] / 4, out[0, 2:] - 1.5
    torch.testing.assert_close(m, mean_image)
    variance = (0.09 + 0.21 + 0.25 + 0.09) / 4
    expected = torch.full_like(m, math.log(math.sqrt(3 * variance) / math.pi))
    torch.testing.assert_close(log_s, expected)


@pytest.mark.parametrize("name", ["bernoulli", "continuous_bernoulli", "gaussian"])
def test_constant_is_the_best_constant(name: str) -> None:
    likelihood = build_likelihood(name)
    x = draw(name)[1]
    out = likelihood.constant(x.mean(0)).requires_grad_()
    likelihood.nll(out.expand(len(x), -1, -1, -1), x).sum().backward()
    assert out.grad is not None
    torch.testing.assert_close(out.grad, torch.zeros_like(out), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_constant_is_finite_for_pixels_that_never_vary(name: str) -> None:
    likelihood = build_likelihood(name)
    mean_image = torch.tensor([0.0, 1.0]).view(1, 1, 2)
    x = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).view(2, 1, 1, 2)
    nll = likelihood.nll(likelihood.constant(mean_image).expand(2, -1, -1, -1), x)
    assert torch.isfinite(nll).all()
    assert nll[0] < nll[1]


def test_bernoulli_constant_is_the_clipped_logit() -> None:
    mean_image = torch.tensor([0.0, 0.25, 1.0]).view(1, 1, 3)
    limit = math.log((1 - 1e-4) / 1e-4)
    expected = pytest.approx([-limit, math.log(1 / 3), limit], abs=1e-3)
    assert build_likelihood("bernoulli").constant(mean_image).flatten().tolist() == expected


def test_discretized_constant_beats_the_uniform_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.rand(1, 1, 8, 8, generator=generator)
    noise = 0.1 * torch.randn(200, 1, 8, 8, generator=generator)
    x = ((base + noise).clamp(0, 1) * 255).round() / 255
    likelihood = build_likelihood("discretized_logistic")
    nll = likelihood.nll(likelihood.constant(x.mean(0)).expand(200, -1, -1, -1), x)
    assert nll.mean().item() < 64 * math.log(256)


def test_training_never_waits_for_the_device() -> None:
    # A tensor on "meta" has no content: whatever would copy a value to the host raises.
    for likelihood in [*map(build_likelihood, NAMES), OptimalGaussian()]:
        x = torch.zeros(2, 1, 3, 3, device="meta")
        out = torch.zeros(2, likelihood.maps, 3, 3, device="meta", requires_grad=True)
        likelihood.to("meta").nll(out, x).sum().backward()
        likelihood.end_epoch()


def test_only_gaussian_takes_a_sigma_and_names_must_be_known() -> None:
    with pytest.raises(ValueError, match="belongs to gaussian, but the likelihood is laplace"):
        build_likelihood("laplace", 0.5)
    with pytest.raises(KeyError, match="gausian"):
        build_likelihood("gausian")
