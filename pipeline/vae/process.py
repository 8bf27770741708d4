"""What a process sets once before it computes, and what the last bits of its results depend on."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
from collections.abc import Iterator

import torch
from torch import Tensor

from pipeline.errors import UserError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
CUBLAS_WORKSPACE = ":4096:8"  # with one of a fixed size cuBLAS sums in a fixed order


def prepare_process(device: str = "cpu") -> None:
    """One thread, because the order of a sum is part of the answer; and freed memory is kept.

    glibc would give every large block back to the kernel and fault it in again in the next step,
    which costs a convolution 30 % of its time. Other C libraries go without. On a GPU: no TF32,
    and deterministic algorithms where there are any.
    """
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    if device != "cpu":
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = CUBLAS_WORKSPACE  # read at the first product
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # 1 would have TF32 whatever torch is told
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 2**28)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**30)


def resolve_device(name: str, slot: int = 0) -> str:
    """`auto` as the best device of this machine: workers take its GPUs in turn, by their slot.

    Raises UserError for a device that is not there.
    """
    if name == "auto":
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if gpus:
            return f"cuda:{slot % gpus}"
        return "cpu"  # not mps, which has no float64
    try:
        torch.empty(0, device=name, dtype=torch.float64)  # sums over a split are of that type
    except (RuntimeError, AssertionError, TypeError) as error:
        # AssertionError: torch without CUDA; TypeError: no float64, as on Apple's GPUs
        reason = str(error).splitlines()[0]
        raise UserError(
            f"device {name} cannot be used: {reason}: correct `device` in machine.yaml"
        ) from None
    return name


def arithmetic(device: str) -> dict[str, str]:
    """The fingerprint of a prepared process: what the last bits of a training depend on.

    `sums` is a digest of some products, convolutions and sums of the CPU: it also differs where
    MKL or oneDNN are told to compute otherwise, or do so by themselves on another processor.
    """
    return {
        "device": _device(device),
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "flags": _flags(device),
        "sums": _sums(),
    }


def _device(name: str) -> str:
    if name.startswith("cuda"):
        major, minor = torch.cuda.get_device_capability(name)
        return (
            f"{torch.cuda.get_device_name(name)} ({major}.{minor}),"
            f" cuDNN {torch.backends.cudnn.version()}"
        )
    return name if name == "cpu" else f"{name} {platform.machine()} {platform.mac_ver()[0]}"


def _flags(device: str) -> str:
    """As they are, not as `prepare_process` has set them."""
    if device == "cpu":
        return f"float32 {torch.get_float32_matmul_precision()}"
    tf32 = torch.backends.cudnn.allow_tf32 or torch.get_float32_matmul_precision() != "highest"
    deterministic = (
        torch.are_deterministic_algorithms_enabled()
        and torch.backends.cudnn.deterministic
        and not torch.backends.cudnn.benchmark
    )
    return f"{'TF32' if tf32 else 'no TF32'}, {'' if deterministic else 'not '}deterministic"


@torch.inference_mode()
def _sums() -> str:
    found = hashlib.sha256()
    for result in _results():
        found.update(result.contiguous().numpy().tobytes())
    return found.hexdigest()[:12]


def _results() -> Iterator[Tensor]:
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw)

    images, hidden, weights = normal(64, 784), normal(784, 200), normal(16, 8, 3, 3)
    maps = normal(16, 8, 14, 14).to(memory_format=torch.channels_last)
    yield images @ hidden
    yield hidden.t() @ images[:, :784].t()
    yield torch.nn.functional.conv2d(maps, weights, padding=1)
    yield torch.nn.functional.conv_transpose2d(maps, weights.transpose(0, 1), stride=2)
    yield torch.nn.functional.softplus(images).sum(1)
    yield torch.sigmoid(images).log().mean(0)
    yield torch.exp(hidden).double().sum(0)
