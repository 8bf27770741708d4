"""What the convolutional families share: sizes, and the dense layers beside the latents.

Convolutions pad by 1 on every side. (TensorFlow's "same" pads even sizes with stride 2 on the
far side alone; sizes and parameter counts agree.) The decoder takes its feature-map sizes from
the encoder's, by output padding or by upsampling to the size, so that its output has exactly
the image's.
"""

from __future__ import annotations

import math

from torch import nn

Shape = tuple[int, int, int]  # (C, H, W)
Size = tuple[int, int]  # (H, W)


def halved(size: Size) -> Size:
    """The size after a stride of 2, odd ones rounded up."""
    return math.ceil(size[0] / 2), math.ceil(size[1] / 2)


def dense(maps: Shape, units: int) -> list[nn.Module]:
    """From feature maps to the features that the heads read."""
    return [nn.Flatten(), nn.Linear(math.prod(maps), units), nn.ReLU()]


def undense(latent_dim: int, maps: Shape) -> list[nn.Module]:
    """From z to feature maps."""
    return [nn.Linear(latent_dim, math.prod(maps)), nn.ReLU(), nn.Unflatten(1, maps)]
