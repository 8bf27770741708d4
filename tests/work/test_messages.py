"""What stops a command is said once, though its mirror meets it too."""

from __future__ import annotations

import subprocess
import sys

import pytest
from crews import ROOT, Sweep


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["runs/state/ledger.db", "runs/tiny/prepare/manifest.json"])
def test_a_damaged_file_is_one_line(tiny: Sweep, broken: str) -> None:
    path = tiny.root / broken
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("garbage, and enough of it to be looked at" * 100)
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "search", "tiny"],
        cwd=tiny.root,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tiny.root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert broken in line
    assert "damaged" in line or "is not what prepare wrote" in line
    assert "machine.yaml" not in line
