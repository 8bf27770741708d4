"""Two 3×3 convolutions of stride 2 and a dense layer; transposed convolutions back.

With 32 filters, 16 dense units and 2 latent dimensions on 1×28×28: two heads of 16·2 + 2
make an encoder of 69 076 parameters, the decoder has 65 089.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from pipeline.vae.families.hyperparameter import hyperparameter
from pipeline.vae.families.layers import Shape, Size, dense, halved, undense


@dataclass(frozen=True)
class ConvStride:
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
            nn.Conv2d(shape[0], filters, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(filters, 2 * filters, 3, stride=2, padding=1),
            nn.ReLU(),
            *dense((2 * filters, *quarter), self.dense_units),
        )
        return body, self.dense_units

    def decoder(self, shape: Shape, maps: int, latent_dim: int) -> nn.Sequential:
        """See `pipeline.vae.families`."""
        filters, full = self.filters, shape[1:]
        half, quarter = halved(full), halved(halved(full))
        return nn.Sequential(
            *undense(latent_dim, (2 * filters, *quarter)),
            _doubling(2 * filters, 2 * filters, quarter, half),
            nn.ReLU(),
            _doubling(2 * filters, filters, half, full),
            nn.ReLU(),
            nn.ConvTranspose2d(filters, maps * shape[0], 3, padding=1),
        )


def _doubling(inputs: int, outputs: int, small: Size, large: Size) -> nn.Module:
    """A transposed convolution of stride 2 from (small) to (large), where small = ⌈large/2⌉."""
    padding = (large[0] - (2 * small[0] - 1), large[1] - (2 * small[1] - 1))  # 0 or 1
    return nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=padding)
