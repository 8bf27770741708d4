"""Git, as a tester."""

from __future__ import annotations

import subprocess
from pathlib import Path


def git(folder: Path, *arguments: str, given: bytes = b"") -> str:
    who = ("-c", "user.name=tester", "-c", "user.email=tester@localhost")
    done = subprocess.run(
        ["git", *who, *arguments], cwd=folder, input=given, capture_output=True, check=True
    )
    return done.stdout.decode().strip()
