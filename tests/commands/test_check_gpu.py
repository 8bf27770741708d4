"""`check` says where a GPU has less memory than the largest setting needs; none has to be there."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pipeline.commands.check_estimate import _too_large
from pipeline.settings.machine import Machine
from pipeline.settings.space import Space, load_space

GREY = (1, 28, 28)
SPACE = """
data: {name: mnist}
parameters:
  family: conv_stride
  lr: {low: 1.0e-4, high: 1.0e-2, log: true}
  batch_size: {choices: [64, 4096]}
search: {constraints: {memory_mb: %s}}
"""


def space_with(root: Path, limit: str) -> Space:
    (root / "search_spaces").mkdir(exist_ok=True)
    (root / "search_spaces" / "large.yaml").write_text(SPACE % limit)
    return load_space(root, "large")


def test_a_gpu_with_too_little_memory_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    totals = [10**10, 10**8]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(totals))
    having = lambda index: SimpleNamespace(total_memory=totals[index])  # noqa: E731
    monkeypatch.setattr(torch.cuda, "get_device_properties", having)
    space = space_with(tmp_path, "null")
    (line,) = _too_large(space, Machine(), GREY)
    assert "a GPU here has 100 MB: its trials would fail as too large" in line
    assert "`constraints: {memory_mb: 100}` in `search` has none proposed" in line
    assert not list(_too_large(space_with(tmp_path, "100"), Machine(), GREY))
    for device in ("cpu", "cuda:0"):
        assert not list(_too_large(space, Machine(device=device), GREY))
