"""What a trial records of where it comes from: Git commit, uncommitted changes, code, settings."""

from __future__ import annotations

import base64
import getpass
import hashlib
import os
import shutil
import subprocess
import tempfile
import zlib
from pathlib import Path
from typing import Any

from pipeline.seeds import digest
from pipeline.settings.hyperparameters import Domain, Range
from pipeline.settings.space import Space

# What decides a run. Other files of a checkout may be edited without a word.
MATTERS = ("pipeline", "search_spaces", "params.yaml", "dvc.yaml", "requirements.lock",
           "pyproject.toml")  # fmt: skip
MOST_BYTES = 200_000  # of a packed diff that is kept
GIT_SECONDS = 60.0
NIGHT = "PIPELINE_NIGHT"  # of the environment: the night that trials are of, which tags their runs


def lineage(root: Path, space: Space) -> dict[str, Any]:
    """The record. `source` holds what Git may not: settings, own files, uncommitted changes."""
    lock = root / "requirements.lock"
    commit, diff = commit_and_diff(root)
    packed = base64.b64encode(zlib.compress(diff or b"", 9)).decode()
    kept: dict[str, Any] = {"diff": packed if len(packed) <= MOST_BYTES else None} if diff else {}
    if space.sources:
        kept["files"] = {file: each.text for file, each in space.sources.items()}
    return {
        "git_commit": commit,
        "git_dirty": None if diff is None else bool(diff),  # None: Git does not say
        "code_sha256": code_sha256(),
        **({"night": night} if (night := os.environ.get(NIGHT)) else {}),
        "user": _user(),
        "lock_sha256": digest(lock.read_text(encoding="utf-8")) if lock.exists() else "",
        "source": {"space": as_yaml(space), **kept},
    }


def _user() -> str:
    """Who has started it; empty where the system knows no name (a container's bare number)."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def unpack(packed: str) -> bytes:
    """The diff that a record holds."""
    return zlib.decompress(base64.b64decode(packed))


def code_sha256() -> str:
    """The digest of the code that runs, which needs no Git."""
    package = Path(__file__).parents[1]
    files = {
        path.relative_to(package).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in package.rglob("*.py")
    }
    return digest(files)


def as_yaml(space: Space) -> str:
    """A sweep's file that means the same as the one that it was read from."""
    import yaml

    parameters = {**space.fixed, **{name: _domain(each) for name, each in space.searched.items()}}
    sections = ("model", "search", "retrain", "evaluate", "render")
    raw = {
        "data": space.data.model_dump(mode="json", exclude_unset=True),
        "parameters": parameters,
        **{name: getattr(space, name).model_dump(mode="json") for name in sections},
    }
    return yaml.safe_dump(raw, sort_keys=False)


def _domain(domain: Domain) -> dict[str, Any]:
    """A domain as a person writes it."""
    found = domain.model_dump(mode="json", exclude_defaults=True)
    if isinstance(domain, Range) and found.pop("integer", False):
        return {key: int(each) if isinstance(each, float) else each for key, each in found.items()}
    return found


def commit_and_diff(root: Path) -> tuple[str, bytes | None]:
    """The commit, and what differs from it of what matters, new files too; empty without Git.

    A folder that merely lies in another project's repository has none. The diff is None where Git
    fails.
    """
    commit = (_git(root, "rev-parse", "--verify", "HEAD") or b"").decode().strip()
    there = [
        name for name in MATTERS if (root / name).exists() or _git(root, "ls-files", "--", name)
    ]
    if not commit or not _git(root, "ls-files", "--", *MATTERS):
        return "", b""
    where = _git(root, "rev-parse", "--git-path", "index", "--git-path", "objects") or b""
    index, objects = (root / line for line in where.decode().splitlines())
    with tempfile.TemporaryDirectory() as temporary:  # nothing of it reaches the repository
        copy = Path(temporary) / "index"
        if index.exists():
            shutil.copy2(index, copy)  # by its time Git knows which files to look into
        extra = {
            "GIT_INDEX_FILE": str(copy),
            "GIT_OBJECT_DIRECTORY": temporary,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(objects.absolute()),
        }
        added = _git(root, "add", "-A", "--", *there, ":(exclude,glob)**/__pycache__/**", **extra)
        options = ("--cached", "--binary", "--no-ext-diff", "--no-color")
        diff = _git(root, "diff", *options, "HEAD", "--", *there, **extra)
        return commit, None if added is None else diff


def _git(root: Path, *arguments: str, **environment: str) -> bytes | None:
    """What Git says; None if it fails."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            timeout=GIT_SECONDS,
            env={**os.environ, **environment},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
