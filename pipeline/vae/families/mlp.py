"""Dense layers of `hidden` widths; the decoder mirrors them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from pipeline.vae.families.hyperparameter import hyperparameter
from pipeline.vae.families.layers import Shape

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {  # in place, if the gradient needs no input
    "relu": lambda: nn.ReLU(inplace=True),
    "leaky_relu": lambda: nn.LeakyReLU(0.2, inplace=True),
    "silu": nn.SiLU,
}


@dataclass(frozen=True)
class Mlp:
    """Dense layers and back."""

    hidden: Sequence[int] = hyperparameter(
        [512, 256],
        low=1,
        high=65_536,
        meaning="mlp: widths of the encoder; the decoder mirrors them",
    )
    skip: bool = hyperparameter(
        False, meaning="mlp: every layer of the decoder sees the latents, not the first alone"
    )
    activation: str = hyperparameter(
        "relu",
        choices=["relu", "leaky_relu", "silu"],
        meaning="mlp: nonlinearity (leaky_relu has slope 0.2)",
    )

    def encoder(self, shape: Shape) -> tuple[nn.Sequential, int]:
        """See `pipeline.vae.families`. Raises KeyError for an unknown activation."""
        activation = _ACTIVATIONS[self.activation]
        body: list[nn.Module] = [nn.Flatten()]
        for wide, narrow in pairwise([math.prod(shape), *self.hidden]):
            body += [nn.Linear(wide, narrow), activation()]
        return nn.Sequential(*body), self.hidden[-1]

    def decoder(self, shape: Shape, maps: int, latent_dim: int) -> nn.Sequential:
        """See `pipeline.vae.families`. Raises KeyError for an unknown activation."""
        activation = _ACTIVATIONS[self.activation]
        channels, height, width = shape
        widths = [latent_dim, *reversed(self.hidden), maps * math.prod(shape)]
        layers: list[nn.Module] = []
        if self.skip:
            layers = [SkipDecoder(widths, activation)]
        else:
            for narrow, wide in pairwise(widths):
                layers += [nn.Linear(narrow, wide), activation()]
            layers.pop()
        return nn.Sequential(*layers, nn.Unflatten(1, (maps * channels, height, width)))


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
        out: Tensor = self.first(z)
        for layer in self.others:
            out = layer(torch.cat([self.activation(out), z.to(out.dtype)], dim=1))
        return out
