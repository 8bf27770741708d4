"""Residual convolutions for photographs: as deep as the image is large, down to 4 pixels.

At every size `blocks` of two 3×3 convolutions with pre-activation (He et al., arXiv 1603.05027);
between sizes a stride of 2, or nearest upsampling. Channels double with each of the first two
halvings. Group norm (Wu & He, arXiv 1803.08494) takes its statistics from one image alone, so that
an image's NELBO does not depend on its batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from pipeline.vae.families.hyperparameter import hyperparameter
from pipeline.vae.families.layers import Shape, Size, halved

SMALLEST = 4  # pixels of a side at which halving ends
GROUPS = 8
DOUBLINGS = 2


@dataclass(frozen=True)
class Residual:
    """Residual blocks at every size of the image, and back."""

    filters: int = hyperparameter(
        32, low=1, high=65_536, meaning="conv: channels of the first convolution"
    )
    blocks: int = hyperparameter(
        1, low=1, high=64, meaning="residual: blocks of two convolutions at every size"
    )

    def encoder(self, shape: Shape) -> tuple[nn.Module, int]:
        """See `pipeline.vae.families`."""
        sizes = _sizes(shape)
        widths = self._widths(len(sizes))
        layers: list[nn.Module] = [nn.Conv2d(shape[0], widths[0], 3, padding=1)]
        for level, width in enumerate(widths):
            if level:
                layers.append(nn.Conv2d(widths[level - 1], width, 3, stride=2, padding=1))
            layers += [Block(width) for _ in range(self.blocks)]
        layers += [*_activated(widths[-1]), nn.Flatten()]
        return nn.Sequential(*layers), widths[-1] * math.prod(sizes[-1])

    def decoder(self, shape: Shape, maps: int, latent_dim: int) -> nn.Module:
        """See `pipeline.vae.families`."""
        sizes = _sizes(shape)
        widths = self._widths(len(sizes))
        small = (widths[-1], *sizes[-1])
        layers: list[nn.Module] = [nn.Linear(latent_dim, math.prod(small)), nn.Unflatten(1, small)]
        for level in reversed(range(len(sizes))):
            if level < len(sizes) - 1:
                layers.append(nn.Upsample(sizes[level]))
                layers.append(nn.Conv2d(widths[level + 1], widths[level], 3, padding=1))
            layers += [Block(widths[level]) for _ in range(self.blocks)]
        layers += [*_activated(widths[0]), nn.Conv2d(widths[0], maps * shape[0], 3, padding=1)]
        return nn.Sequential(*layers)

    def _widths(self, levels: int) -> list[int]:
        """Channels at every size, the largest first."""
        return [self.filters * 2 ** min(level, DOUBLINGS) for level in range(levels)]


class Block(nn.Module):
    """x + f(x), (batch, channels, H, W)."""

    def __init__(self, channels: int) -> None:
        """`f` is two convolutions, each behind a group norm and a SiLU."""
        super().__init__()
        self.layers = nn.Sequential(
            *_activated(channels),
            nn.Conv2d(channels, channels, 3, padding=1),
            *_activated(channels),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layers(x)
        return out


def _activated(channels: int) -> list[nn.Module]:
    return [nn.GroupNorm(math.gcd(GROUPS, channels), channels), nn.SiLU()]


def _sizes(shape: Shape) -> list[Size]:
    """The image's size and its halves, until a side is small."""
    sizes = [shape[1:]]
    while min(sizes[-1]) > SMALLEST:
        sizes.append(halved(sizes[-1]))
    return sizes
