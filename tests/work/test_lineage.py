"""What is recorded of where a run comes from is enough to have it again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from repository import git

from pipeline.settings.space import load_space
from pipeline.work.lineage import lineage, unpack

SPACE = "data: {name: digits}\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A clone with one commit."""
    root = tmp_path / "clone"
    (root / "search_spaces").mkdir(parents=True)
    (root / "search_spaces" / "x.yaml").write_text(SPACE)
    (root / "pipeline").mkdir()
    (root / "pipeline" / "a.py").write_text("a = 1\n")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "first")
    return root


def test_a_clean_checkout(root: Path) -> None:
    (root / "notes.txt").touch()
    found = lineage(root, load_space(root, "x"))
    assert (found["git_commit"], found["git_dirty"]) == (git(root, "rev-parse", "HEAD"), False)
    assert "diff" not in found["source"]


def test_new_and_changed_files_are_kept_and_can_be_applied(root: Path, tmp_path: Path) -> None:
    (root / "search_spaces" / "y.yaml").write_text(SPACE)
    (root / "pipeline" / "a.py").write_text("a = 2\n")
    (root / "pipeline" / "b.bin").write_bytes(bytes(range(256)))
    (root / "pipeline" / "__pycache__").mkdir()
    (root / "pipeline" / "__pycache__" / "a.pyc").touch()
    status = git(root, "status", "--porcelain")
    objects = sorted((root / ".git" / "objects").rglob("*"))
    found = lineage(root, load_space(root, "y"))
    assert found["git_dirty"] is True
    assert git(root, "status", "--porcelain") == status
    assert sorted((root / ".git" / "objects").rglob("*")) == objects

    git(tmp_path, "clone", "--quiet", str(root), "again")
    again = tmp_path / "again"
    git(again, "apply", "-", given=unpack(found["source"]["diff"]))
    for name in ("search_spaces/y.yaml", "pipeline/a.py", "pipeline/b.bin"):
        assert (again / name).read_bytes() == (root / name).read_bytes()
    assert not (again / "pipeline" / "__pycache__").exists()


def test_own_files_are_kept_as_the_sweep_has_read_them(root: Path) -> None:
    """Wherever they lie, whatever Git knows of them, and however they are edited since."""
    file, text = root / "my models" / "metrics.py", "def sharpness(test):\n    return 1\n"
    file.parent.mkdir()
    file.write_text(text)
    (root / ".gitignore").write_text("my models\n")
    metrics = 'evaluate: {metrics: ["my models/metrics.py:sharpness"]}\n'
    (root / "search_spaces" / "x.yaml").write_text(SPACE + metrics)
    space = load_space(root, "x")
    file.write_text("later")
    assert lineage(root, space)["source"]["files"] == {"my models/metrics.py": text}


def test_an_edit_of_the_same_size_and_time_is_seen(root: Path) -> None:
    """As of `dvc exp run -S`, which checks a space out and changes a digit in one tick."""
    file, tick = root / "pipeline" / "a.py", (0, 10**18)
    git(root, "config", "core.trustctime", "false")
    os.utime(file, ns=tick)
    git(root, "add", "-A")
    file.write_text(file.read_text().replace("1", "2"))
    os.utime(file, ns=tick)
    os.utime(root / ".git" / "index", ns=tick)
    assert lineage(root, load_space(root, "x"))["git_dirty"] is True


def test_a_diff_beyond_all_bounds_is_not_kept_and_said_to_be(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.work.lineage.MOST_BYTES", 10)
    (root / "pipeline" / "a.py").write_text("a = 2\n")
    found = lineage(root, load_space(root, "x"))
    assert (found["git_dirty"], found["source"]["diff"]) == (True, None)


def test_a_tarball_within_another_repository_has_no_commit(root: Path) -> None:
    inner = root / "unpacked"
    (inner / "search_spaces").mkdir(parents=True)
    (inner / "search_spaces" / "x.yaml").write_text(SPACE)
    found = lineage(inner, load_space(inner, "x"))
    assert (found["git_commit"], found["git_dirty"]) == ("", False)
    assert len(found["code_sha256"]) == 64


def test_a_project_in_a_folder_of_a_repository(root: Path, tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "outer")
    outer = tmp_path / "outer"
    git(outer, "config", "core.autocrlf", "false")
    inner = outer / "project"
    (inner / "search_spaces").mkdir(parents=True)
    (inner / "search_spaces" / "x.yaml").write_text(SPACE)
    git(outer, "add", ".")
    git(outer, "commit", "--quiet", "-m", "first")
    (inner / "search_spaces" / "y.yaml").write_text(SPACE)
    found = lineage(inner, load_space(inner, "y"))
    git(outer, "clean", "-fdq")
    git(inner, "apply", "-", given=unpack(found["source"]["diff"]))
    assert (inner / "search_spaces" / "y.yaml").read_text() == SPACE
