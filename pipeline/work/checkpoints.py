"""The training states of trials on disk: who writes them, how often, and when they go."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.vae.training import Training

TRAINING_PER_SAVING = 20  # checkpoints take a twentieth of the time
MOST_UNSAVED_SECONDS = 60  # or more, where saving takes long
MOST_PAUSED = 32  # states of paused trials; one that is missing is trained again


class Checkpoints:
    """The training states of a trial, a file per lease.

    A worker that lost its lease may still write its own file, but not over its successor's. Epochs
    that are short beside their saving are not all saved: after a kill the last are trained again.
    Long ones are saved in their midst.
    """

    def __init__(self, folder: Path, part: int, token: int):
        self._folder, self._key = folder, (part, token)
        self.of = ""  # which training's; see `pipeline.work.trainings.name_of`
        self._position = (0, 0)  # of the last state: epochs, steps of the next one
        self._due = 0.0  # when the next one is, by `time.monotonic`
        self._overdue = time.monotonic() + MOST_UNSAVED_SECONDS  # when an epoch is left for it

    @property
    def overdue(self) -> bool:
        """Whether to save now, in the midst of an epoch."""
        return time.monotonic() >= self._overdue

    def load(self, training: Training) -> None:
        """Brings a new training to the last state that can be read; from none it begins anew."""
        from pipeline.vae.checkpoint import Unreadable, load_training

        for path in sorted(self._files(), key=_key, reverse=True):
            try:
                load_training(path, training, self.of)
                self._position = _position(training)
                return
            except Unreadable as error:
                print(f"passed over: {error}", file=sys.stderr, flush=True)

    def save(self, training: Training, *, at_once: bool = False) -> None:
        """Writes the state, when that is due, and drops those of earlier leases."""
        from pipeline.vae.checkpoint import save_training

        start = time.monotonic()
        position = _position(training)
        if position == self._position or (start < self._due and not at_once):
            return
        path = self._folder / "checkpoint-{}-{}.safetensors".format(*self._key)
        save_training(path, training, self.of)
        self._drop(path for path in self._files() if _key(path) < self._key)
        self._position, end = position, time.monotonic()
        pause = TRAINING_PER_SAVING * (end - start)
        self._due = end + min(pause, MOST_UNSAVED_SECONDS)
        self._overdue = end + max(pause, MOST_UNSAVED_SECONDS)

    def clear(self) -> None:
        """Drops the states of this lease and of earlier ones: the trial has ended."""
        self._drop(path for path in self._files() if _key(path) <= self._key)

    def _files(self) -> list[Path]:
        return list(self._folder.glob("checkpoint-*.safetensors"))

    def _drop(self, paths: Iterable[Path]) -> None:
        for path in paths:
            path.unlink(missing_ok=True)


def clear_finished(folder: Path, ended: Iterable[int], paused: Iterable[int]) -> None:
    """Drops what workers that were killed or overtaken have left of a study's trials that `ended`,
    and of the `paused` ones, which may go on, all but the newest states."""
    gone, wait = set(ended), set(paused)
    kept = []
    for path in [*folder.glob("trial-*/checkpoint-*"), *folder.glob("trial-*/.*")]:
        trial = int(path.parent.name.removeprefix("trial-"))
        if trial in gone or (trial in wait and path.name.startswith(".")):
            path.unlink(missing_ok=True)
        elif trial in wait:
            kept.append(path)
    for path in sorted(kept, key=lambda path: path.stat().st_mtime_ns)[:-MOST_PAUSED]:
        path.unlink(missing_ok=True)


def _position(training: Training) -> tuple[int, int]:
    return len(training.records), training.taken


def _key(path: Path) -> tuple[int, int]:
    """The part and the token of its lease; before there were parts, the token alone."""
    part, _, token = path.stem.removeprefix("checkpoint-").rpartition("-")
    return int(part or 0), int(token)
