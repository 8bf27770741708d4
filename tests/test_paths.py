"""Files come into being whole, and what killed writers leave does not pile up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.files import atomic_folder, atomic_path, read_array, read_table, recover_folder
from pipeline.paths import main_checkout

KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.files import atomic_folder, atomic_path
with atomic_folder(Path(sys.argv[1])) as folder, atomic_path(folder.parent / "file.txt") as file:
    (folder / "part").write_text("half")
    file.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""

# One process is killed at its first file operation, the next one at its second, and so on.
KILLED_EVERYWHERE = """
import itertools, os, signal, sys
from pathlib import Path
from pipeline.files import atomic_folder, recover_folder

def write(folder, text):
    with atomic_folder(folder) as new:
        (new / "sub").mkdir()
        for name in ("manifest", "sub/array"):
            (new / name).write_text(text)

def killed_at(number, folder):
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    operations = itertools.count(1)
    def hook(event, arguments):
        if event in ("open", "shutil.rmtree") or event.startswith(("os.", "tempfile.")):
            if next(operations) == number:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    write(folder, "new")
    os._exit(0)

folder = Path(sys.argv[1])
for number in itertools.count(1):
    write(folder, "old")
    killed = killed_at(number, folder)
    recover_folder(folder)
    texts = {(folder / name).read_text() for name in ("manifest", "sub/array")}
    assert texts in ({"old"}, {"new"}), (number, texts)
    if not killed:
        break
    write(folder, "after")
    left = sorted(path.name for path in folder.resolve().parent.iterdir())
    assert left == [folder.resolve().name], (number, left)
print(number)
"""
WRITES_IN_TURNS = """
import sys
from pathlib import Path
from pipeline.files import atomic_folder
for _ in range(60):
    with atomic_folder(Path(sys.argv[1])) as folder:
        (folder / "manifest").write_text(sys.argv[2])
        (folder / "array").write_text(sys.argv[2])
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


@pytest.mark.parametrize("linked", [False, True])
def test_a_writer_of_a_folder_that_is_killed_anywhere_leaves_a_whole_one(
    linked: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "parent" / "folder"
    folder.parent.mkdir()
    if linked:
        (tmp_path / "disk" / "target").mkdir(parents=True)
        folder.symlink_to(tmp_path / "disk" / "target")
    done = subprocess.run(
        [sys.executable, "-c", KILLED_EVERYWHERE, str(folder)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20
    assert folder.is_symlink() == linked


def test_two_writers_of_one_folder_take_turns(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITES_IN_TURNS, str(folder), text], stderr=subprocess.PIPE
        )
        for text in "ab"
    ]
    errors = [writer.communicate()[1].decode() for writer in writers]
    assert errors == ["", ""]
    assert (folder / "manifest").read_text() == (folder / "array").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_folder_in_which_dvc_has_put_links_to_its_cache(tmp_path: Path) -> None:
    folder, cached = tmp_path / "out", tmp_path / "cache"
    cached.write_text("cached")
    cached.chmod(0o444)
    folder.mkdir()
    (folder / "soft").symlink_to(cached)
    (folder / "hard").hardlink_to(cached)
    with atomic_folder(folder) as new:
        (new / "soft").write_text("new")
    assert (cached.read_text(), (folder / "soft").read_text()) == ("cached", "new")
    assert [path.name for path in folder.iterdir()] == ["soft"]


def test_what_is_no_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_text("someone's")
    says = "link is a link that leads nowhere"
    with pytest.raises(UserError, match=says), atomic_folder(tmp_path / "link"):
        pass
    with pytest.raises(NotADirectoryError) as caught, atomic_folder(tmp_path / "file"):
        pass
    assert caught.value.filename == str(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "someone's"
    recover_folder(tmp_path / "link")


@pytest.mark.parametrize("inner", [".", "models/vae"])
@pytest.mark.parametrize("set_up", [".", "models"])
def test_an_experiments_copy_shares_the_state_of_its_own_project(
    inner: str, set_up: str, tmp_path: Path
) -> None:
    """The project, and what DVC was set up in, may be folders of a repository."""
    main = tmp_path / "repository"
    copy = main / set_up / ".dvc/tmp/exps/abc"
    for top in (main, copy):
        (top / set_up / ".dvc").mkdir(parents=True, exist_ok=True)
        (top / set_up / ".dvc/config").touch()
        (top / set_up / inner).mkdir(parents=True, exist_ok=True)
    assert main_checkout(copy / set_up / inner) == main / set_up / inner
    assert main_checkout(main / set_up / inner) == main / set_up / inner
