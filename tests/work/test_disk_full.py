"""A disk that is full: one line, nothing torn, and the same command goes on when there is room."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from crews import Sweep, make_sweep, no_one_left, sweep

from pipeline.errors import NO_SPACE
from pipeline.study.storage import engine
from pipeline.study.storage.ledger import Ledger

STAGES = ("search", "retrain")
RAW = sweep(
    search={"trials": 3, "epochs": 4, "rungs": [3]},
    retrain={"top": 1, "seeds": 1, "epochs": 4},
    parameters={
        "hidden": [128],  # weights of 100 KiB
        "lr": {"low": 4e-3, "high": 1e-2, "log": True},  # its centre is no broken model
    },
)


class SmallDisk:
    """A disk of 4 MiB, and a file on it that leaves only so much room."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self, but: int = 0) -> None:
        """Leaves `but` KiB."""
        self._filler.unlink(missing_ok=True)
        with self._filler.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass
        self.give_back(but)

    def give_back(self, kib: int) -> None:
        """Makes that much more room."""
        with self._filler.open("r+b") as file:
            file.truncate(max(self._filler.stat().st_size - kib * 1024, 0))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A small disk, to be the runs/ of a sweep."""
    folder = tmp_path / "clone" / "runs"
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def write(url: str) -> OSError | None:
    """Opens a ledger and writes to it; what stands against it."""
    try:
        with closing(Ledger(url)) as ledger:
            ledger.open_study("study", "tiny", "search", {})
    except OSError as error:
        return error
    return None


@pytest.mark.parametrize("is_new", [True, False])
def test_the_ledger_says_that_the_disk_is_full_wherever_its_room_ends(
    is_new: bool, disk: SmallDisk
) -> None:
    """In its file, its log or its shared memory."""
    ledger, found = disk.folder / "ledger.db", []
    for room in range(0, 160, 4):
        for path in disk.folder.iterdir():
            path.unlink()
        if not is_new:
            Ledger(f"sqlite:///{ledger}").close()
        disk.fill(but=room)
        found.append(write(f"sqlite:///{ledger}"))
    errors = [error for error in found if error]
    assert found[0]
    assert not found[-1]
    assert {error.errno for error in errors} <= set(NO_SPACE)
    assert {error.filename for error in errors} == {str(ledger)}


def test_it_is_said_also_by_who_has_waited_for_a_lock(
    disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BUSY_SECONDS", 0.0)
    ledger = Ledger(f"sqlite:///{disk.folder}/ledger.db")
    other = sqlite3.connect(
        disk.folder / "ledger.db", isolation_level=None, check_same_thread=False
    )
    other.execute("BEGIN IMMEDIATE")

    def fill() -> None:
        disk.fill()
        other.rollback()

    timer = threading.Timer(0.3, fill)
    timer.start()
    spec = {"text": "x" * 300_000}
    with pytest.raises(OSError, match="No space left"):
        ledger.open_study("study", "tiny", "search", spec)
    timer.join()
    other.close()
    disk.give_back(1024)
    ledger.open_study("study", "tiny", "search", spec)
    assert ledger.find_study("study")
    other.close()
    ledger.close()


def run(made: Sweep, stage: str) -> str | None:
    """Gives a command; what it has no room for, None when it is done."""
    said = len(made.errors) if (made.root / "stderr.txt").exists() else 0
    with no_one_left(command := made.start(stage, 2)):
        if command.wait(120) == 0:
            return None
    assert command.returncode == 2, made.errors
    assert "Traceback" not in made.errors[said:], made.errors
    assert not list(made.paths.stage(stage).glob("*"))
    *_, last = made.errors.splitlines()
    line = re.fullmatch(
        r"error: no space left for (.*): free some, then the same command goes on", last
    )
    assert line, made.errors
    return line[1]


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_changes_no_byte(disk: SmallDisk, tmp_path: Path) -> None:
    """The room grows little by little, so that the commands fail at the ledger, then at ever later
    checkpoints and weights; at last there is none for the outputs of what is trained."""
    undisturbed = make_sweep(tmp_path / "undisturbed", RAW)
    assert [run(undisturbed, stage) for stage in STAGES] == [None, None]

    tiny, failures = make_sweep(tmp_path / "clone", RAW), set()
    disk.fill()
    for stage in STAGES:
        while place := run(tiny, stage):
            failures.add(re.sub(r"\d+", "N", Path(place).name))
            disk.give_back(16 if "settings" in place else 384)
    assert {"ledger.db", "checkpoint-N-N.safetensors"} <= failures
    shutil.rmtree(tiny.paths.retrain)
    disk.fill(but=200)
    assert str(tiny.paths.runs / "tiny" / ".retrain.") in str(run(tiny, "retrain"))
    disk.give_back(800)
    assert run(tiny, "retrain") is None
    assert tiny.outputs(*STAGES) == undisturbed.outputs(*STAGES)
    assert [path.name for path in (tiny.paths.runs / "tiny").glob(".*")] == []
