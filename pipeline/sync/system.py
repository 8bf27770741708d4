"""What a study asks of the machine: processor, memory and GPU, sampled while its trials run.

The mirror's process takes the samples; they are live state and part of no output.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from pipeline.tracking.records import Metric, Position, Stream

SAMPLE_SECONDS = 10.0
CHUNK = 1 << 17  # bytes read at once: some 600 samples
GPU_SECONDS = 5.0  # what nvidia-smi may take
GPU_FIELDS = ("utilization_percentage", "memory_usage_megabytes", "power_usage_watts")
GPU_QUERY = "--query-gpu=utilization.gpu,memory.used,power.draw"


class Sampler:
    """Appends a sample to a file of JSON lines, at most one every SAMPLE_SECONDS."""

    def __init__(self, file: Path):
        self._file = file
        self._next = 0.0
        self._gpus = shutil.which("nvidia-smi") is not None
        psutil.cpu_percent()  # the first call only sets the start of the interval

    def sample(self, study: str) -> None:
        """Takes a sample for a study, if it is time."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + SAMPLE_SECONDS
        values = _host() | (_gpus() if self._gpus else {})
        record = {"study": study, "at_ms": int(time.time() * 1000), "values": values}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def samples_of(file: Path, study: str) -> Stream:
    """The samples of a study under MLflow's names, which its System metrics tab shows.

    A position is the file's inode, the offset, and the number of samples before it: each line is
    read once, CHUNK bytes at a time, however long the study goes on.
    """

    def read(position: Position) -> tuple[list[Metric], Position]:
        try:
            with file.open("rb") as lines:
                inode, start, step = position or [0, 0, 0]
                now = os.fstat(lines.fileno())
                if now.st_ino != inode or now.st_size < start:  # another file: its samples follow
                    start = 0
                lines.seek(start)
                text = lines.read(CHUNK)
        except FileNotFoundError:
            return [], position
        whole = text[: text.rfind(b"\n") + 1]  # the rest is still being written
        if not whole:
            return [], position
        samples = [record for record in _records(whole) if record["study"] == study]
        points = [
            Metric(f"system/{name}", value, step + index, record["at_ms"])
            for index, record in enumerate(samples)
            for name, value in record["values"].items()
        ]
        return points, [now.st_ino, start + len(whole), step + len(samples)]

    return read


def _records(lines: bytes) -> Iterator[dict[str, Any]]:
    """The records of whole lines, without those that a full disk or a death has cut off."""
    for line in lines.splitlines():
        with suppress(ValueError):
            yield json.loads(line)


def _host() -> dict[str, float]:
    memory = psutil.virtual_memory()
    return {
        "cpu_utilization_percentage": psutil.cpu_percent(),  # since the sample before
        "system_memory_usage_megabytes": round(memory.used / 1e6, 1),
        "system_memory_usage_percentage": memory.percent,
    }


def _gpus() -> dict[str, float]:
    """Of each GPU what its driver tells; nothing if it does not answer."""
    argv = ["nvidia-smi", GPU_QUERY, "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(argv, capture_output=True, text=True, timeout=GPU_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return parse_gpus(said.stdout)


def parse_gpus(text: str) -> dict[str, float]:
    """The figures of nvidia-smi's CSV, a line a GPU; those a GPU does not have are left out."""
    return {
        f"gpu_{index}_{field}": float(cell)
        for index, line in enumerate(text.splitlines())
        for field, cell in zip(GPU_FIELDS, line.split(", "), strict=False)
        if cell.replace(".", "", 1).isdigit()  # otherwise [N/A]
    }
