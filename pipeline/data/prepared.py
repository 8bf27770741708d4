"""The prepared arrays as tensors."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from pipeline.files import read_array


def load_images(folder: Path, split: str, device: torch.device | str = "cpu") -> Tensor:
    """The uint8 (n, C, H, W) images of train, validation or test.

    On a processor they are pages of the file, once in memory for all workers of a host.
    """
    return torch.from_numpy(read_array(folder / f"{split}_images.npy", mapped=True)).to(device)


def load_labels(folder: Path, split: str) -> Tensor:
    """The int64 (n,) class numbers of a split."""
    return torch.from_numpy(read_array(folder / f"{split}_labels.npy"))
