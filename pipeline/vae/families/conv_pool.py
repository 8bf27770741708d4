"""Two 3×3 convolutions with batch norm and pooling; nearest upsampling back.

Pooling rounds odd sizes up. Upsampling goes to the encoder's size, which is ×2 if even.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from pipeline.vae.families.hyperparameter import hyperparameter
from pipeline.vae.families.layers import Shape, dense, halved, undense


@dataclass(frozen=True)
class ConvPool:
    """Two convolutions and a dense layer, and back."""

    filters: int = hyperparameter(
        32, low=1, high=65_536, meaning="conv: channels of the first convolution"
    )
    dense_units: int = hyperparameter(
        64, low=1, high=65_536, meaning="conv: width of the layer before the latent"
    )

    def encoder(self, shape: Shape) -> tuple[nn.Sequential, int]:
        """See `pipeline.vae.families`."""
        filters, quarter = self.filters, halved(halved(shape[1:]))
        body = nn.Sequential(
            *_convolution(shape[0], filters),
            nn.MaxPool2d(2, ceil_mode=True),
            *_convolution(filters, 2 * filters),
            nn.MaxPool2d(2, ceil_mode=True),
            *dense((2 * filters, *quarter), self.dense_units),
        )
        return body, self.dense_units

    def decoder(self, shape: Shape, maps: int, latent_dim: int) -> nn.Sequential:
        """See `pipeline.vae.families`."""
        filters, full = self.filters, shape[1:]
        half, quarter = halved(full), halved(halved(full))
        return nn.Sequential(
            *undense(latent_dim, (2 * filters, *quarter)),
            nn.Upsample(half),
            *_convolution(2 * filters, 2 * filters),
            nn.Upsample(full),
            *_convolution(2 * filters, filters),
            nn.Conv2d(filters, maps * shape[0], 3, padding=1),
        )


def _convolution(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(outputs)]
