"""Whether code of your own leaves torch as it was for the whole process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pipeline.own_code import Fault


@contextmanager
def process_is_left_alone() -> Iterator[None]:
    """Whatever follows in the same process must not depend on what ran in here.

    Raises Fault.
    """
    before = _of_the_process()
    try:
        yield
        for name, value in _of_the_process().items():
            if value != before[name]:
                raise Fault(
                    f"changes torch for the whole process ({name}): other trials would depend on"
                    " whether it was there before them"
                )
    finally:
        torch.set_default_dtype(before["default_dtype"])
        torch.set_num_threads(before["num_threads"])
        torch.set_grad_enabled(before["grad_enabled"])
        torch.set_flush_denormal(before["flush_denormal"])


def _of_the_process() -> dict[str, Any]:
    tiny = torch.tensor([1e-40], dtype=torch.float32)
    return {
        "default_dtype": torch.get_default_dtype(),
        "num_threads": torch.get_num_threads(),
        "grad_enabled": torch.is_grad_enabled(),
        "flush_denormal": float(tiny * 1.0) == 0.0,
        "default_device": str(torch.get_default_device()),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "mkldnn": torch.backends.mkldnn.enabled,
        "cudnn": torch.backends.cudnn.enabled,
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "cudnn.deterministic": torch.backends.cudnn.deterministic,
    }
