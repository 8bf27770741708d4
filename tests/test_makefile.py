"""`make .venv` with a Python that only writes down what it is asked."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PYTHON = """#!/bin/sh
echo "$0 $*" >> {log}
case "$*" in
  "-c import sys"*) exit {old} ;;
  -V) echo "Python 3.{minor}" ;;
  "-m venv .venv")
    test {venv} = 0 || {{ mkdir -p .venv/bin; cp "$0" .venv/bin/python; exit 1; }}
    mkdir -p .venv/bin
    for name in python pip; do cp "$0" .venv/bin/$name; done ;;
  "-m pip install"*) printf '#!/bin/sh\\n{uv}\\n' > .venv/bin/uv; chmod +x .venv/bin/uv ;;
esac
"""
UV = (
    'echo "uv $*" >> {log}; printf "#!$PWD/.venv/bin/python\\n" > .venv/bin/dvc;'
    " exit $(cat {log}.uv)"
)


class Clone:
    """A folder with the Makefile, and what the commands of the last `make` were."""

    def __init__(self, folder: Path):
        self.folder, self.log = folder, folder.parent / "log"
        folder.mkdir()
        shutil.copy(ROOT / "Makefile", folder)
        (folder / "requirements.lock").write_text("uv==0.5.1 ; python_version > '3'\n")
        (folder / "pyproject.toml").touch()

    def make(
        self, old: int = 0, venv: int = 0, uv: int = 0, minor: int = 11, named: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """`make .venv` with a Python that fails where it is told to, be it named or `python3`."""
        self.log.write_text("")
        python = self.folder.parent / "bin" / "python3"
        python.parent.mkdir(exist_ok=True)
        script = UV.format(log=self.log)
        Path(f"{self.log}.uv").write_text(str(uv))
        python.write_text(PYTHON.format(log=self.log, old=old, venv=venv, uv=script, minor=minor))
        python.chmod(0o755)
        done = subprocess.run(
            ["make", ".venv", *([f"PYTHON={python}"] if named else [])],
            cwd=self.folder,
            env={"PATH": f"{python.parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
        )
        return done

    @property
    def commands(self) -> str:
        return self.log.read_text()


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path / "clone")


def error(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return line


def test_an_environment_is_made_once(clone: Clone) -> None:
    assert clone.make().returncode == 0, clone.commands
    assert "install --quiet --require-hashes" in clone.commands
    assert clone.make().returncode == 0
    assert "install" not in clone.commands
    os.utime(clone.folder / "requirements.lock", (2e9, 2e9))
    clone.make()
    assert "install" in clone.commands
    assert "venv" not in clone.commands.replace(".venv", "")


def test_a_python_without_venv_is_told_and_tried_again(clone: Clone) -> None:
    assert "has no venv: install it (Debian: apt install python3-venv)" in error(clone.make(venv=1))
    assert clone.make().returncode == 0
    assert "-m venv" in clone.commands


def test_packages_that_do_not_come_are_told_and_tried_again(clone: Clone) -> None:
    assert "SSL_CERT_FILE" in error(clone.make(uv=1))
    assert clone.make().returncode == 0
    assert "install --quiet --require-hashes" in clone.commands


def test_an_old_python_is_told(clone: Clone) -> None:
    assert "must be Python 3.11 or newer" in error(clone.make(old=1))
    assert not (clone.folder / ".venv").exists()


def test_an_environment_of_another_python_than_the_named_one_is_made_anew(clone: Clone) -> None:
    clone.make(minor=13)
    clone.make(minor=11, named=False)  # any that is there does
    assert "install" not in clone.commands
    assert "must be Python 3.11 or newer" in error(clone.make(minor=10, old=1))
    clone.make(minor=13)
    assert "install" not in clone.commands  # nothing was lost
    clone.make(minor=12)
    assert "-m venv .venv" in clone.commands
    clone.make(minor=12)
    assert "install" not in clone.commands


def test_an_environment_that_was_moved_is_made_anew(clone: Clone) -> None:
    clone.make()
    moved = clone.folder.rename(clone.folder.parent / "moved")
    clone.folder = moved
    assert clone.make().returncode == 0
    assert "-m venv" in clone.commands
    assert str(moved) in (moved / ".venv" / "bin" / "dvc").read_text()
    clone.make()
    assert "install" not in clone.commands


def test_an_environment_may_be_linked(clone: Clone, tmp_path: Path) -> None:
    clone.make()
    other = Clone(tmp_path / "other")
    (other.folder / ".venv").symlink_to(clone.folder / ".venv")
    os.utime(clone.folder / ".venv" / "made", (3e9, 3e9))
    other.make()
    assert "install" not in other.commands
    assert (other.folder / ".venv").is_symlink()
