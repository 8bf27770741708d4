"""A tiny sweep that a person has worked through, from prepare to the report and to MLflow."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import sqlite3
import stat
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.__main__ import main

SPACE: dict[str, Any] = {
    "data": {"name": "digits", "limit": 600, "test": {"seed": 0}},
    "parameters": {
        "lr": {"low": 3e-3, "high": 1e-2, "log": True},
        "latent_dim": {"choices": [2, 3]},
        "hidden": [16],
        "batch_size": 16,
    },
    "search": {"trials": 3, "epochs": 12, "parallelism": 1, "pruner": "none", "seed": 1},
    "retrain": {"top": 1, "seeds": 2, "epochs": 12},
    "evaluate": {"nelbo_samples": 1, "iw_samples": 1, "probe": False},
    "render": {"projections": ["pca"], "points": 50, "images": 2, "prior_samples": 2,
               "grid_side": 2, "traversal_steps": 2, "interpolation_steps": 2,
               "uncertainty_decodes": 2},
}  # fmt: skip
IDLE = (".lock", "-shm", "-wal", ".log")  # what comes and goes beside the files that count


@dataclass(frozen=True)
class Worked:
    """The folder of a checkout and what a person types in it."""

    root: Path

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    def edit(self, section: str, key: str, value: Any) -> None:
        """Changes a key of a section of the space."""
        file = self.root / "search_spaces" / "tiny.yaml"
        raw = yaml.safe_load(file.read_text())
        raw.setdefault(section, {})[key] = value
        file.write_text(yaml.safe_dump(raw))

    def copy(self, root: Path) -> Worked:
        """The same in another folder."""
        shutil.copytree(self.root, root, symlinks=True)
        return Worked(root)

    def give(self, *command: str) -> tuple[int, str, str]:
        """Gives a command in this process: exit code, standard output, standard error."""
        before, argv = Path.cwd(), sys.argv
        out, err = io.StringIO(), io.StringIO()
        os.chdir(self.root)
        sys.argv = ["pipeline", *command]
        try:
            with (
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(err),
                warnings.catch_warnings(),
            ):
                if command[0] in ("sync", "where", "ui"):
                    warnings.simplefilter("ignore")  # MLflow warns of itself when it is imported
                main()
        except SystemExit as end:
            return int(end.code or 0), out.getvalue(), err.getvalue()
        finally:
            os.chdir(before)
            sys.argv = argv
        raise AssertionError("a command ends with an exit code")

    def refused(self, *command: str) -> str:
        """The line with which a command is refused; it has exit code 2 and changes nothing."""
        before = self.files()
        code, out, err = self.give(*command)
        assert (code, out, err.count("\n")) == (2, "", 1), (code, out, err)
        after = self.files()
        assert after == before, sorted(before.items() ^ after.items())
        return err.removeprefix("error: ").rstrip("\n")

    def done(self, *command: str) -> None:
        """Gives a command that succeeds."""
        code, _, err = self.give(*command)
        assert code == 0, err

    def files(self) -> dict[str, str]:
        """What the files under runs/ hold, by name: a digest, or what stands in a file's place."""
        return {
            path.relative_to(self.root).as_posix(): _content(path)
            for path in sorted(self.runs.rglob("*"))
            if not path.name.endswith(IDLE)
            and path.name != "lock"
            and path.parent.name != "seconds"  # how long stages took
        }

    def mend(self, whole: Worked) -> None:
        """Makes what has changed under runs/ again what it is in `whole`, of which this is a copy.

        The rest is left alone: a copy of all of it would take longer than most commands.
        """
        good, now = _states(whole.runs), _states(self.runs)
        for name in sorted(now, reverse=True):  # what is in a folder before the folder
            if now[name] != good.get(name):
                place = self.runs / name
                place.rmdir() if place.is_dir() and not place.is_symlink() else place.unlink(
                    missing_ok=True
                )
        for name in sorted(good):
            source, place = whole.runs / name, self.runs / name
            if not os.path.lexists(place):
                place.mkdir() if source.is_dir() else shutil.copy2(source, place)


def _states(folder: Path) -> dict[str, tuple[int, ...]]:
    """What tells whether something was changed, by name; copies have the times of the copied."""
    found = {}
    for path in folder.rglob("*"):
        try:
            about = path.lstat()
        except FileNotFoundError:  # what SQLite has beside a database comes and goes
            continue
        times = () if stat.S_ISDIR(about.st_mode) else (about.st_size, about.st_mtime_ns)
        found[path.relative_to(folder).as_posix()] = (about.st_mode, *times)
    return found


def _content(path: Path) -> str:
    if path.is_symlink():
        return f"-> {path.readlink()}"
    if not os.access(path, os.R_OK):
        return "forbidden"
    if path.suffix == ".db":  # whoever opens it may tidy its pages, which changes no row
        with (
            contextlib.suppress(sqlite3.Error, UnicodeDecodeError),
            contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db,
        ):
            return hashlib.sha256("\n".join(db.iterdump()).encode()).hexdigest()
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "a folder"


def work_through(root: Path) -> Worked:
    """Takes the sweep through all five stages with one worker and then to MLflow."""
    (root / "search_spaces").mkdir(parents=True)
    (root / "search_spaces" / "tiny.yaml").write_text(yaml.safe_dump(SPACE))
    worked = Worked(root)
    machine = root / "machine.yaml"
    machine.write_text("workers: 1\ntracking: none\ndevice: cpu\n")
    worked.done("run", "tiny")
    machine.write_text("workers: 1\ndevice: cpu\n")
    worked.done("sync", "tiny")
    machine.write_text("workers: 1\ntracking: none\ndevice: cpu\n")
    return worked
