"""What a process sets once before it computes."""

from __future__ import annotations

import contextlib
import ctypes

import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def prepare_process() -> None:
    """One thread, because the order of a sum is part of the answer; and freed memory is kept.

    glibc would give every large block back to the kernel and fault it in again in the next step,
    which costs a convolution 30 % of its time. Other C libraries go without.
    """
    torch.set_num_threads(1)
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 2**28)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**30)
