"""What the processes that a test starts find around them."""

from __future__ import annotations

import os
import random
import socket
from contextlib import suppress

# What libraries are told of the processor and its use: a child is to compute as its test does.
ARITHMETIC = {
    name: value
    for name, value in os.environ.items()
    if name.startswith(("OPENBLAS_", "MKL_", "ATEN_", "NPY_"))
}


def free_port() -> int:
    """One that no outgoing connection is given before a server has taken it."""
    while True:
        port = random.SystemRandom().randrange(20_000, 30_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
