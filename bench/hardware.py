"""What a benchmark ran on, and its table."""

from __future__ import annotations

import platform
from pathlib import Path

from pipeline.settings.machine import cores


def hardware(device: str = "cpu") -> str:
    """One line: processor, cores and, if used, the GPU; with the versions that matter."""
    import torch

    parts = [_processor(), f"{cores()} cores"]
    if device != "cpu":
        parts.append(torch.cuda.get_device_name(device))
    return ", ".join([*parts, f"torch {torch.__version__}", f"Python {platform.python_version()}"])


def table(rows: list[dict[str, str]]) -> str:
    """A Markdown table; the columns are the keys of the first row."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([row[name] for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _processor() -> str:
    about = Path("/proc/cpuinfo")  # of Linux alone
    for line in about.read_text().splitlines() if about.exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()
