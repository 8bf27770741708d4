"""Encoder, decoder and latent space: three families of VAEs for images of any (C, H, W).

Convolutions pad by 1 on every side. (TensorFlow's "same" pads even sizes with stride 2 on the
far side alone; sizes and parameter counts agree.) The decoder takes its feature-map sizes from
the encoder's, by output padding or by upsampling to the size, so that its output has exactly
the image's. Weights of convolutions are laid out channels-last, in which they run 1.6 times faster
on processors; it takes no word from whoever loads or trains a model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.vae.likelihood import Likelihood, at_least_float32, build_likelihood

# Bounds of log σ². Training was seen to reach −14. A posterior far wider than the prior is a slip
# of the encoder on an unusual image (one in 10⁶ at high rates): its loss would drown the batch's.
LOG_VAR_MIN, LOG_VAR_MAX = -30.0, 5.0

Shape = tuple[int, int, int]  # (C, H, W)
Size = tuple[int, int]  # (H, W)
Halves = tuple[nn.Sequential, int, nn.Sequential]  # encoder body, its output width, decoder


class Encoder(nn.Module):
    """A body and two linear heads."""

    def __init__(self, body: nn.Module, features: int, latent_dim: int) -> None:
        super().__init__()
        self.body = body
        self.mu = nn.Linear(features, latent_dim)
        self.log_var = nn.Linear(features, latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """μ and log σ², each (batch, latent), of images (batch, C, H, W)."""
        features = self.body(x)  # (batch, features)
        mu, log_var = at_least_float32(self.mu(features)), at_least_float32(self.log_var(features))
        return mu, log_var.clamp(LOG_VAR_MIN, LOG_VAR_MAX)


class SkipDecoder(nn.Module):
    """Dense layers that all see z beside the layer below, so that fewer latent dimensions die.

    A generative skip model (Dieng et al., arXiv 1807.04863).
    """

    def __init__(self, widths: list[int], activation: Callable[[], nn.Module]) -> None:
        """`widths` of z, the hidden layers and the output."""
        super().__init__()
        first, *others = pairwise(widths)
        self.first = nn.Linear(*first)
        self.others = nn.ModuleList(nn.Linear(narrow + widths[0], wide) for narrow, wide in others)
        self.activation = activation()

    def forward(self, z: Tensor) -> Tensor:
        """The output (batch, widths[-1]) of z (batch, widths[0])."""
        out = self.first(z)
        for layer in self.others:
            out = layer(torch.cat([self.activation(out), z.to(out.dtype)], dim=1))
        return out


class VAE(nn.Module):
    """q(z|x) = N(μ, diag σ²), p(z) = N(0, I), and p(x|z) as the likelihood reads the decoder."""

    def __init__(
        self,
        shape: Shape,
        latent_dim: int,
        encoder: Encoder,
        decoder: nn.Sequential,
        likelihood: Likelihood,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.latent_dim = latent_dim
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """μ and log σ², each (batch, latent); log σ² is within [−30, 5]. Never half precision."""
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        """The raw decoder output (batch, maps*C, H, W) for the likelihood; z (batch, latent)."""
        return self.decoder(z)


def build(shape: Shape, config: dict[str, Any], seed: int) -> VAE:
    """The VAE of a plain record, on the CPU; its weights depend on the arguments alone.

    Reads `family`, `latent_dim`, `init`, `likelihood`, `sigma`, and for mlp `hidden`, `skip` and
    `activation`, for the convolutions `filters` and `dense_units`; other keys are the training's.
    Raises KeyError for a missing key or an unknown name. The global generators stay untouched.
    """
    likelihood = build_likelihood(config["likelihood"], config["sigma"])
    latent_dim = config["latent_dim"]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed GPUs as well
        body, features, decoder = _FAMILIES[config["family"]](shape, likelihood.maps, config)
        vae = VAE(shape, latent_dim, Encoder(body, features, latent_dim), decoder, likelihood)
        _INITS[config["init"]](vae)
    return vae.to(memory_format=torch.channels_last)


@torch.no_grad()
def center(vae: VAE, mean: Tensor) -> None:
    """Sets two biases of a fresh mlp so that it starts at the mean training image (C, H, W).

    The first layer sees images from which the mean is taken away (LeCun et al., Efficient
    BackProp, 1998, section 4.3); where the last hidden layer is silent, the output predicts the
    mean. One bias for all pixels, as convolutions have, could do neither.
    """
    layers = [layer for layer in vae.modules() if isinstance(layer, nn.Linear)]
    first, last = layers[0], layers[-1]
    first.bias.copy_(-first.weight @ mean.flatten())
    last.bias.copy_(vae.likelihood.constant(mean).flatten())


def reparameterize(mu: Tensor, log_var: Tensor, eps: Tensor) -> Tensor:
    """z = μ + σ·ε, all (batch, latent)."""
    return mu + torch.exp(0.5 * log_var) * eps


def kl_per_dim(mu: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, 1)) = ½ (μ² + σ² − log σ² − 1) in nats, (batch, latent)."""
    return 0.5 * (mu.square() + torch.expm1(log_var) - log_var)


def _mlp(shape: Shape, maps: int, config: dict[str, Any]) -> Halves:
    """Dense layers of `hidden` widths; the decoder mirrors them."""
    activation = _ACTIVATIONS[config["activation"]]
    widths = [math.prod(shape), *config["hidden"]]
    body: list[nn.Module] = [nn.Flatten()]
    for wide, narrow in pairwise(widths):
        body += [nn.Linear(wide, narrow), activation()]
    upwards = [config["latent_dim"], *reversed(config["hidden"]), maps * widths[0]]
    decoder: list[nn.Module] = []
    if config["skip"]:
        decoder = [SkipDecoder(upwards, activation)]
    else:
        for narrow, wide in pairwise(upwards):
            decoder += [nn.Linear(narrow, wide), activation()]
        decoder.pop()  # the output is the likelihood's to squash
    decoder.append(nn.Unflatten(1, _output(shape, maps)))
    return nn.Sequential(*body), widths[-1], nn.Sequential(*decoder)


def _conv_stride(shape: Shape, maps: int, config: dict[str, Any]) -> Halves:
    """Two 3×3 convolutions of stride 2 and a dense layer; transposed convolutions back.

    With 32 filters, 16 dense units and 2 latent dimensions on 1×28×28: two heads of 16·2 + 2
    make an encoder of 69 076 parameters, the decoder has 65 089.
    """
    channels, full = shape[0], shape[1:]
    half, quarter = _halved(full), _halved(_halved(full))
    filters, units = config["filters"], config["dense_units"]
    deep = (2 * filters, *quarter)
    body = nn.Sequential(
        nn.Conv2d(channels, filters, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(filters, 2 * filters, 3, stride=2, padding=1),
        nn.ReLU(),
        *_dense(deep, units),
    )
    decoder = nn.Sequential(
        *_undense(config["latent_dim"], deep),
        _doubling(2 * filters, 2 * filters, quarter, half),
        nn.ReLU(),
        _doubling(2 * filters, filters, half, full),
        nn.ReLU(),
        nn.ConvTranspose2d(filters, maps * channels, 3, padding=1),
    )
    return body, units, decoder


def _conv_pool(shape: Shape, maps: int, config: dict[str, Any]) -> Halves:
    """Two 3×3 convolutions with batch norm and pooling; nearest upsampling back.

    Pooling rounds odd sizes up. Upsampling goes to the encoder's size, which is ×2 if even.
    """
    channels, full = shape[0], shape[1:]
    half, quarter = _halved(full), _halved(_halved(full))
    filters, units = config["filters"], config["dense_units"]
    deep = (2 * filters, *quarter)
    body = nn.Sequential(
        *_convolution(channels, filters),
        nn.MaxPool2d(2, ceil_mode=True),
        *_convolution(filters, 2 * filters),
        nn.MaxPool2d(2, ceil_mode=True),
        *_dense(deep, units),
    )
    decoder = nn.Sequential(
        *_undense(config["latent_dim"], deep),
        nn.Upsample(half),
        *_convolution(2 * filters, 2 * filters),
        nn.Upsample(full),
        *_convolution(2 * filters, filters),
        nn.Conv2d(filters, maps * channels, 3, padding=1),
    )
    return body, units, decoder


def _convolution(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(outputs)]


def _doubling(inputs: int, outputs: int, small: Size, large: Size) -> nn.Module:
    """A transposed convolution of stride 2 from (small) to (large), where small = ⌈large/2⌉."""
    padding = (large[0] - (2 * small[0] - 1), large[1] - (2 * small[1] - 1))  # 0 or 1
    return nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=padding)


def _dense(maps: tuple[int, ...], units: int) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(math.prod(maps), units), nn.ReLU()]


def _undense(latent_dim: int, maps: tuple[int, ...]) -> list[nn.Module]:
    return [nn.Linear(latent_dim, math.prod(maps)), nn.ReLU(), nn.Unflatten(1, maps)]


def _output(shape: Shape, maps: int) -> Shape:
    channels, height, width = shape
    return maps * channels, height, width


def _halved(size: Size) -> Size:
    return math.ceil(size[0] / 2), math.ceil(size[1] / 2)


def _glorot(vae: VAE) -> None:
    """Glorot & Bengio 2010, as Keras does by default: every weight uniform, every bias zero."""
    for layer in vae.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.get_parameter("bias"))


_FAMILIES: dict[str, Callable[[Shape, int, dict[str, Any]], Halves]] = {
    "mlp": _mlp,
    "conv_stride": _conv_stride,
    "conv_pool": _conv_pool,
}
_INITS: dict[str, Callable[[VAE], None]] = {"glorot": _glorot, "torch": lambda vae: None}
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {  # in place, if the gradient needs no input
    "relu": lambda: nn.ReLU(inplace=True),
    "leaky_relu": lambda: nn.LeakyReLU(0.2, inplace=True),
    "silu": nn.SiLU,
}
