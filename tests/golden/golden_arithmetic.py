"""What the last bits depend on besides the code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SETS = ("avx", "avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16",
        "amx_tile")  # fmt: skip


def processor() -> str:
    """Vendor and instruction sets, by which libraries choose their kernels, as Linux knows them."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return "unknown"
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    known: dict[str, Any] = {name.strip(): text.split() for name, text in pairs}
    sets = set(known.get("flags", []))
    return " ".join([*known.get("vendor_id", []), *(name for name in SETS if name in sets)])
