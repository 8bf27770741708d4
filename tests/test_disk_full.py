"""A disk that is full: one line, nothing torn, and the same command goes on when there is room."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from crews import Sweep, make_sweep, no_one_left, sweep

pytestmark = pytest.mark.slow

RAW = sweep(search={"trials": 4, "epochs": 4})


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Sweep]:
    """A sweep whose runs/ is a disk of 4 MiB."""
    runs = tmp_path / "clone" / "runs"
    made = make_sweep(tmp_path / "clone", RAW)
    prepared = made.outputs("prepare")
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(runs)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        for name, content in prepared.items():
            path = runs / "tiny" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        yield made
    finally:
        subprocess.run(["umount", "--lazy", str(runs)], check=True)


def fill(disk: Path, left: int) -> Path:
    """A file that leaves so many bytes of a disk."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        with suppress(OSError):
            while file.write(bytes(4096)):
                pass
        file.truncate(filler.stat().st_size - left)
    return filler


@pytest.mark.parametrize("left", [16, 128, 256])
def test_a_full_disk_is_one_line_and_no_loss(left: int, tiny: Sweep, tmp_path: Path) -> None:
    """KiB that are left when the search starts: for the ledger, for it and a few checkpoints."""
    undisturbed = make_sweep(tmp_path / "undisturbed", RAW)
    assert undisturbed.worker().work() == 0

    filler = fill(tiny.paths.runs, left * 1024)
    with no_one_left(command := tiny.start("search", 2)):
        assert command.wait(120) == 2, tiny.errors
    assert tiny.errors.splitlines()[-1].startswith("error: "), tiny.errors
    assert "Traceback" not in tiny.errors, tiny.errors
    print(left, tiny.errors)
    assert not (tiny.paths.search / "best.json").exists()

    filler.unlink()
    with no_one_left(command := tiny.start("search", 2)):
        assert command.wait(120) == 0, tiny.errors
    assert tiny.tables() == undisturbed.tables()
