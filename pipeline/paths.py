"""Every path of the project, and the only ways in which files come into being."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@dataclass(frozen=True)
class Paths:
    """The files of the sweep `name` in the checkout `root`."""

    root: Path
    name: str

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    def stage(self, stage: str) -> Path:
        """The output folder of a stage (a DVC out)."""
        return self.runs / self.name / stage

    @property
    def prepare(self) -> Path:
        return self.stage("prepare")

    @property
    def search(self) -> Path:
        return self.stage("search")

    @property
    def retrain(self) -> Path:
        return self.stage("retrain")

    @property
    def evaluate(self) -> Path:
        return self.stage("evaluate")

    @property
    def render(self) -> Path:
        return self.stage("render")

    @property
    def state(self) -> Path:
        """Live state that outlives stages: never a DVC out, never deleted by one."""
        return self.runs / "state"

    @property
    def downloads(self) -> Path:
        return self.state / "downloads"

    @property
    def ledger(self) -> Path:
        return self.state / "ledger.db"

    @property
    def mlflow_db(self) -> Path:
        return self.state / "mlflow.db"

    @property
    def mlflow_artifacts(self) -> Path:
        return self.state / "mlflow-artifacts"

    def study(self, study: str) -> Path:
        """The folder of a study: checkpoints, weights, lock, logs."""
        return self.state / "studies" / study

    def trial(self, study: str, number: int) -> Path:
        return self.study(study) / f"trial-{number:05d}"


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it if the block succeeds, else vanishes.

    After a power cut there is the old file or the new one, never a torn one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    temporary = Path(name)
    try:
        _hold(handle)
        yield temporary
        temporary.chmod(0o644)
        _to_disk(temporary)
        temporary.replace(path)
        _to_disk(path.parent)
    except OSError as error:
        error.filename = error.filename or str(path)  # a failed write does not name its file
        raise
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that replaces the folder `path` if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(path)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    handle = os.open(temporary, os.O_RDONLY)
    try:
        _hold(handle)
        yield temporary
        temporary.chmod(0o755)
        for inner in [*temporary.rglob("*"), temporary]:
            _to_disk(inner)
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
        _to_disk(path.parent)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(handle)


def _hold(handle: int) -> None:
    """Tells others that its writer lives. Without such locks on a disk nothing is ever cleared."""
    with contextlib.suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_SH)


def _clear_leftovers(path: Path) -> None:
    """Removes what killed writers of `path` have left. A living one holds a lock on its own."""
    for left in path.parent.glob(f".{path.name}.*"):
        with contextlib.suppress(OSError):
            handle = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            finally:
                os.close(handle)


def _to_disk(path: Path) -> None:
    """Waits until a file's content, or a folder's entries, would survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Writes a whole text file or nothing."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes readable JSON with a stable layout: same value, same bytes."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """What `write_json` has written. Raises UserError if someone has damaged it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise damaged(path, error) from None


def read_array(path: Path) -> np.ndarray:
    """An array that a stage has written. Raises UserError if someone has damaged it."""
    import numpy as np

    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise damaged(path, error) from None


def read_table(path: Path, **options: Any) -> pd.DataFrame:
    """A CSV file that a stage has written; `options` are pandas'. Raises UserError likewise."""
    import pandas as pd

    try:
        return pd.read_csv(path, **options)
    except ValueError as error:
        raise damaged(path, error) from None


def damaged(path: Path, error: Exception) -> UserError:
    """The message about a file that we wrote, whole, and that is not whole any more."""
    return UserError(
        f"{path} is damaged ({error}): delete it and run the stage that writes it again"
    )
