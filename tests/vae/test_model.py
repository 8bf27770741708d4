"""The three families: sizes, counts, initial weights, gradients, and the KL divergence."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, distributions, nn

from pipeline.vae.model import VAE, build, center, kl_per_dim, reparameterize
from pipeline.vae.setting import read_architecture

CONFIG: dict[str, Any] = {
    "family": "mlp",
    "latent_dim": 3,
    "hidden": [12, 7],
    "filters": 4,
    "dense_units": 6,
    "skip": False,
    "activation": "relu",
    "init": "glorot",
    "blocks": 1,
    "likelihood": "bernoulli",
    "sigma": None,
}
FAMILIES = ["mlp", "conv_stride", "conv_pool", "residual"]
LIKELIHOODS = [
    "bernoulli",
    "binarized",
    "gaussian",
    "laplace",
    "continuous_bernoulli",
    "discretized_logistic",
]
SHAPES = [(1, 28, 28), (1, 8, 8), (1, 9, 11), (3, 32, 32), (3, 7, 6), (2, 1, 2), (1, 5, 30)]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Tiny models spend their time waiting for a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make(shape: tuple[int, int, int] = (1, 8, 8), seed: int = 0, **changes: Any) -> VAE:
    return build(shape, read_architecture({**CONFIG, **changes}), seed)


def images(shape: tuple[int, int, int], batch: int = 4) -> Tensor:
    """8-bit values in [0, 1], (batch, C, H, W)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, *shape), generator=generator) / 255


def loss(vae: VAE, x: Tensor) -> Tensor:
    """NELBO of the batch with noise of a fixed seed, ()."""
    mu, log_var = vae.encode(x)
    eps = torch.randn(mu.shape, generator=torch.Generator().manual_seed(1))
    nll = vae.likelihood.nll(vae.decode(reparameterize(mu, log_var, eps)), x)
    return (nll + kl_per_dim(mu, log_var).sum(1)).mean()


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_have_the_size_of_the_images(family: str, shape: tuple[int, int, int]) -> None:
    channels, height, width = shape
    for likelihood, maps in (("bernoulli", 1), ("discretized_logistic", 2)):
        vae = make(shape, family=family, likelihood=likelihood)
        mu, log_var = vae.encode(images(shape))
        assert mu.shape == log_var.shape == (4, 3)
        assert vae.decode(mu).shape == (4, maps * channels, height, width)
        assert (vae.shape, vae.latent_dim) == (shape, 3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_every_parameter_gets_a_gradient(family: str, likelihood: str) -> None:
    shape = (3, 9, 8)
    vae = make(shape, family=family, likelihood=likelihood)
    loss(vae, images(shape, batch=16)).backward()
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_training_lowers_the_nelbo(family: str, likelihood: str) -> None:
    shape = (1, 8, 8)
    vae, x = make(shape, family=family, likelihood=likelihood), images(shape, batch=8)
    if vae.likelihood.binarizes:
        x = x.round()
    optimizer = torch.optim.Adam(vae.parameters(), 1e-2)
    first = loss(vae, x).item()
    for _ in range(25):
        optimizer.zero_grad()
        loss(vae, x).backward()
        optimizer.step()
    assert loss(vae, x).item() < first - 0.5


def test_strided_convolution_has_the_counts_of_its_specification() -> None:
    vae = make((1, 28, 28), family="conv_stride", filters=32, dense_units=16, latent_dim=2)
    assert (count(vae.encoder), count(vae.decoder)) == (69_076, 65_089)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in vae.modules())


def test_pooled_convolution_has_the_layers_of_its_specification() -> None:
    vae = make((1, 28, 28), family="conv_pool", filters=16, dense_units=32, latent_dim=8)
    convolutions = (9 + 1) * 16 + (16 * 9 + 1) * 32
    norms = 2 * (16 + 32)
    assert count(vae.encoder) == convolutions + norms + (49 * 32 + 1) * 32 + 2 * (32 + 1) * 8
    convolutions = (32 * 9 + 1) * 32 + (32 * 9 + 1) * 16 + (16 * 9 + 1)
    assert count(vae.decoder) == (8 + 1) * 49 * 32 + convolutions + norms


def test_mlp_mirrors_its_widths() -> None:
    vae = make((1, 28, 28), hidden=[512, 256], latent_dim=32)
    linear = [layer for layer in vae.modules() if isinstance(layer, nn.Linear)]
    widths = [(layer.in_features, layer.out_features) for layer in linear]
    heads = [(256, 32), (256, 32)]
    assert widths == [(784, 512), (512, 256), *heads, (32, 256), (256, 512), (512, 784)]


def test_with_skip_every_layer_of_the_decoder_sees_z() -> None:
    """Dieng et al., arXiv 1807.04863: what a layer gets from z does not depend on those below."""
    vae = make((1, 28, 28), hidden=[512, 256], latent_dim=32, skip=True)
    linear = [layer for layer in vae.decoder.modules() if isinstance(layer, nn.Linear)]
    widths = [(layer.in_features, layer.out_features) for layer in linear]
    assert widths == [(32, 256), (256 + 32, 512), (512 + 32, 784)]
    with torch.no_grad():
        for layer, below in zip(linear[1:], (256, 512), strict=True):
            layer.weight[:, :below] = 0
    z = torch.randn(5, 32)
    last = linear[-1].weight[:, 512:]
    torch.testing.assert_close(vae.decode(z).flatten(1), z @ last.T)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_centered_mlp_starts_at_the_mean_image(likelihood: str, skip: bool) -> None:
    shape = (2, 3, 5)
    vae = make(shape, likelihood=likelihood, skip=skip)
    before = copy.deepcopy(vae)
    mean = images(shape).mean(0)
    center(vae, mean)
    constant = vae.likelihood.constant(mean)
    with torch.no_grad():
        for x in images(shape):
            for now, then in zip(vae.encode((x + mean)[None]), before.encode(x[None]), strict=True):
                torch.testing.assert_close(now, then)
        z = torch.randn(4, vae.latent_dim)
        torch.testing.assert_close(vae.decode(z), before.decode(z) + constant)
    gray = vae.likelihood.eval().mean(constant)
    if likelihood != "discretized_logistic":  # its mean folds the tails
        torch.testing.assert_close(gray[0], mean, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("slip", "bound"), [(1e3, 5.0), (-1e3, -30.0)])
def test_an_encoder_that_slips_on_an_image_does_not_drown_the_others(
    slip: float, bound: float
) -> None:
    vae = make()
    nn.init.constant_(vae.encoder.log_var.bias, slip)
    mu, log_var = vae.encode(torch.rand(4, 1, 8, 8))
    assert torch.equal(log_var, torch.full_like(mu, bound))
    kl_per_dim(mu, log_var).sum().backward()
    assert torch.count_nonzero(vae.encoder.log_var.weight.grad) == 0


@pytest.mark.parametrize(
    ("activation", "at_minus_one"),
    [("relu", 0.0), ("leaky_relu", -0.2), ("silu", -1 / (1 + math.e))],
)
def test_activations(activation: str, at_minus_one: float) -> None:
    vae = make(activation=activation)
    assert isinstance(vae.decoder[1], nn.Module)
    value = vae.decoder[1](torch.tensor(-1.0)).item()
    assert value == pytest.approx(at_minus_one, abs=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_glorot_bounds_fill_and_zero_bias(family: str) -> None:
    vae = make((1, 16, 16), family=family, filters=16, dense_units=32, hidden=[64, 32])
    for layer in vae.modules():
        if not isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            continue
        field = layer.weight[0, 0].numel()
        limit = math.sqrt(6 / (field * (layer.weight.shape[0] + layer.weight.shape[1])))
        assert 0.9 * limit < layer.weight.abs().max() <= limit
        assert torch.count_nonzero(layer.get_parameter("bias")) == 0


def test_torch_init_is_that_of_torch() -> None:
    vae = make(init="torch", seed=5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        expected = nn.Linear(64, 12)
    first = vae.encoder.get_parameter("body.1.weight")
    assert torch.equal(first, expected.weight)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("init", ["glorot", "torch"])
def test_weights_depend_on_the_seed_alone(family: str, init: str) -> None:
    torch.manual_seed(1)
    first = make(family=family, init=init, seed=3).state_dict()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = make(family=family, init=init, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = make(family=family, init=init, seed=4).state_dict()
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_large_seeds_are_seeds() -> None:
    first, second = (make(seed=seed).state_dict() for seed in (2**63 - 1, 2**63 - 2))
    assert not torch.equal(first["encoder.mu.weight"], second["encoder.mu.weight"])


def test_other_keys_are_ignored_and_missing_or_unknown_ones_are_not() -> None:
    assert count(make(lr=1e-3, batch_size=128)) == count(make())
    needed = ("family", "hidden", "skip", "activation", "likelihood", "sigma", "init", "latent_dim")
    for missing in needed:
        config = {key: value for key, value in CONFIG.items() if key != missing}
        with pytest.raises(KeyError, match=missing):
            read_architecture(config)
    for wrong in ("family", "activation", "likelihood", "init"):
        with pytest.raises(KeyError, match="typo"):
            make(**{wrong: "typo"})


def test_sigma_reaches_the_likelihood_and_its_state_the_model() -> None:
    assert "likelihood.sigma2" in make(likelihood="gaussian", sigma="optimal").state_dict()
    out = torch.zeros(1, 1, 8, 8)
    wide = make(likelihood="gaussian", sigma=2.0).likelihood.nll(out, out)
    assert wide.item() == pytest.approx(32 * math.log(2 * math.pi * 4))


def test_kl_is_that_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    mu, log_var = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64) * 2
    q = distributions.Normal(mu, torch.exp(log_var / 2))
    expected = distributions.kl_divergence(q, distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(kl_per_dim(mu, log_var), expected)
    assert torch.count_nonzero(kl_per_dim(torch.zeros(2, 3), torch.zeros(2, 3))) == 0


def test_kl_of_a_nearly_collapsed_dimension_is_not_rounded_away() -> None:
    log_var = torch.tensor([[1e-3]])
    assert kl_per_dim(torch.zeros(1, 1), log_var).item() == pytest.approx(2.5e-7, rel=1e-2)


def test_reparameterized_draws_have_the_mean_and_the_variance() -> None:
    eps = torch.randn(100_000, 1, generator=torch.Generator().manual_seed(0))
    z = reparameterize(torch.full_like(eps, 3.0), torch.full_like(eps, math.log(0.25)), eps)
    assert z.mean().item() == pytest.approx(3, abs=0.01)
    assert z.std().item() == pytest.approx(0.5, abs=0.01)


def test_a_diverged_encoder_stays_finite() -> None:
    vae = make()
    for extreme in (-1e4, 1e4):
        nn.init.constant_(vae.encoder.log_var.bias, extreme)
        mu, log_var = vae.encode(images((1, 8, 8)))
        assert torch.isfinite(kl_per_dim(mu, log_var)).all()
        assert torch.isfinite(reparameterize(mu, log_var, torch.ones_like(mu))).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_autocast_keeps_the_latent_space_and_the_sums_in_float32(family: str) -> None:
    vae, x = make(family=family), images((1, 8, 8))
    with torch.autocast("cpu", torch.bfloat16):
        mu, log_var = vae.encode(x)
        out = vae.decode(mu)
        nll = vae.likelihood.nll(out, x)
    assert (mu.dtype, log_var.dtype, nll.dtype) == (torch.float32,) * 3
    assert out.dtype == torch.bfloat16
    reference = vae.likelihood.nll(vae.decode(vae.encode(x)[0]), x)
    torch.testing.assert_close(nll, reference, rtol=0.02, atol=0)


@pytest.mark.parametrize("family", ["conv_stride", "conv_pool"])
def test_the_layout_of_weights_and_images_changes_no_result(family: str) -> None:
    shape = (3, 10, 7)
    vae, x = make(shape, family=family), images(shape)
    kernels = [p for p in vae.parameters() if p.dim() == 4]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
    expected = loss(vae.to(memory_format=torch.contiguous_format), x)
    last = x.contiguous(memory_format=torch.channels_last)
    for given in (x, last):
        torch.testing.assert_close(loss(make(shape, family=family), given), expected)
