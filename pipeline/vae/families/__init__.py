"""Architectures for images of any (C, H, W), a file each.

A family is a frozen dataclass whose fields are the hyperparameters that it reads. `encoder` gives
the body and its output width, to which `pipeline.vae.model` adds the two heads; `decoder` ends in
the raw output (batch, maps*C, H, W), which is the likelihood's to squash. One of your own is a
file of the same form (docs/model.md).
"""

from __future__ import annotations

from typing import Protocol

from torch import nn

from pipeline.vae.families.conv_pool import ConvPool
from pipeline.vae.families.conv_stride import ConvStride
from pipeline.vae.families.layers import Shape
from pipeline.vae.families.mlp import Mlp
from pipeline.vae.families.residual import Residual


class Family(Protocol):
    """What builds the two halves of a VAE."""

    def encoder(self, shape: Shape) -> tuple[nn.Module, int]:
        """From images (batch, C, H, W) to features (batch, width), and that width."""

    def decoder(self, shape: Shape, maps: int, latent_dim: int) -> nn.Module:
        """From z (batch, latent_dim) to (batch, maps*C, H, W), unbounded."""


FAMILIES: dict[str, type[Family]] = {
    "mlp": Mlp,
    "conv_stride": ConvStride,
    "conv_pool": ConvPool,
    "residual": Residual,
}
