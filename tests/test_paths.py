"""Files come into being whole, and what killed writers leave does not pile up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.paths import atomic_folder, atomic_path, read_array, read_table

KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.paths import atomic_folder, atomic_path
with atomic_folder(Path(sys.argv[1])) as folder, atomic_path(folder.parent / "file.txt") as file:
    (folder / "part").write_text("half")
    file.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_next_writer_clears_what_a_killed_one_has_left(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "folder")])
    assert killed.returncode == -9
    assert len(list(tmp_path.iterdir())) == 2
    with atomic_folder(tmp_path / "folder") as folder:
        (folder / "part").write_text("whole")
    with atomic_path(tmp_path / "file.txt") as file:
        file.write_text("whole")
    assert {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")} == {
        "file.txt",
        "folder",
        "folder/part",
    }


@pytest.mark.parametrize("writer", [atomic_folder, atomic_path])
def test_what_a_living_writer_has_not_finished_is_left_alone(writer: Any, tmp_path: Path) -> None:
    with writer(tmp_path / "out") as first:
        with writer(tmp_path / "out") as second:
            assert first != second
        assert first.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("length", [0, 10, 200])
def test_damaged_arrays_and_tables_are_named(length: int, tmp_path: Path) -> None:
    array, table = tmp_path / "images.npy", tmp_path / "trials.csv"
    np.save(array, np.zeros((9, 9)))
    array.write_bytes(array.read_bytes()[:length])
    table.write_bytes(b'a,b\n1,"2\n'[:length] if length else b"")
    for path, read in ((array, read_array), (table, read_table)):
        with pytest.raises(UserError, match=rf"^{path} is damaged \(.*\): delete it and run"):
            read(path)
