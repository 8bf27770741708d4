"""One trial from its lease to its end: trained epoch by epoch, recorded, pruned, resumed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import Search
from pipeline.hyperparameters import Value
from pipeline.study.claim import Lease
from pipeline.study.history import History
from pipeline.study.identity import Study
from pipeline.study.ledger import Ledger
from pipeline.study.prune import should_prune
from pipeline.study.renewal import Renewal
from pipeline.trainer import Trainer, TrialFailed, failures, outcome, save_run

if TYPE_CHECKING:
    from pipeline.vae.fit import Training


TRAINING_PER_SAVING = 20  # checkpoints take a twentieth of the time
MOST_UNSAVED_SECONDS = 60  # or more, where saving takes long
TIMES = ("seconds", "core_seconds", "ended_ms")  # of an epoch's record: the rest is a result


class TrialRun:
    """A worker's work on a trial that it has leased."""

    def __init__(
        self,
        trainer: Trainer,
        ledger: Ledger,
        study: Study,
        lease: Lease,
        folder: Path,
        prunes: Callable[[Training], bool],
    ):
        """`prunes` says whether the trial ends after the epochs that it has behind it."""
        self._trainer, self._ledger, self._study, self._lease = trainer, ledger, study, lease
        self._folder, self._prunes = folder, prunes
        self._checkpoints = Checkpoints(folder, lease.token)

    def run(self, chosen: dict[str, Value], renewal: Renewal, stopping: Callable[[], bool]) -> None:
        """Trains to the trial's end or until it is told to stop. Raises LeaseLost."""
        training = None
        try:
            training = self._trainer.new_training(self._study, self._lease.number, chosen)
            self._checkpoints.load(training)
            if not self._train(training, renewal, stopping):
                return
        except TrialFailed as failure:
            records = training.records if training else []
            self._ledger.finish(self._lease, "failed", records, None, str(failure))
        self._checkpoints.clear()

    def _train(self, training: Training, renewal: Renewal, stopping: Callable[[], bool]) -> bool:
        """Whether the trial has ended. Raises TrialFailed."""
        while not training.finished:
            # Asked before an epoch, not after it: a worker may die after its checkpoint, and the
            # next one must come to the same decision on the same records.
            if self._prunes(training):
                self._ledger.finish(self._lease, "pruned", training.records, outcome(training))
                return True
            if stopping():
                self._checkpoints.save(training, at_once=True)
                return False
            _run_epoch(training)
            renewal.check()
            self._keep_times(training.records)
            self._checkpoints.save(training)
            reported = self._lease.curve[len(training.records) :]  # a curve never shrinks
            self._ledger.report(self._lease, training.records + reported)
        self._complete(training)
        return True

    def _keep_times(self, records: list[dict[str, Any]]) -> None:
        """An epoch that is trained again is the one that was reported: it is no second point."""
        for before in self._lease.curve[len(records) - 1 : len(records)]:
            records[-1] |= {name: before[name] for name in TIMES}

    def _complete(self, training: Training) -> None:
        if reason := self._trainer.broken(training):
            raise TrialFailed(reason)
        if self._study.kind == "candidate":
            # A worker that is paused right here may write after its successor. It writes the same
            # bytes: its last epoch is in its checkpoint, and from that the successor began.
            self._checkpoints.save(training, at_once=True)
            self._ledger.renew(self._lease)
            save_run(self._folder, training)
        self._ledger.finish(self._lease, "complete", training.records, outcome(training))


class Checkpoints:
    """The training states of a trial, a file per lease.

    A worker that lost its lease may still write its own file, but not over its successor's. Epochs
    that are short beside their saving are not all saved: after a kill the last are trained again.
    """

    def __init__(self, folder: Path, token: int):
        self._folder, self._token = folder, token
        self._epochs = 0  # of the last state
        self._due = 0.0  # when the next one is, by `time.monotonic`

    def load(self, training: Training) -> None:
        """Brings a new training to the last state that can be read; from none it begins anew."""
        from pipeline.vae.checkpoint import Unreadable, load_training

        for path in sorted(self._files(), key=_token, reverse=True):
            try:
                load_training(path, training)
                self._epochs = len(training.records)
                return
            except Unreadable as error:
                print(f"passed over: {error}", file=sys.stderr, flush=True)

    def save(self, training: Training, *, at_once: bool = False) -> None:
        """Writes the state after an epoch, when it is due, and drops those of earlier leases."""
        from pipeline.vae.checkpoint import save_training

        start = time.monotonic()
        epochs = len(training.records)
        if epochs == self._epochs or (start < self._due and not at_once):
            return
        save_training(self._folder / f"checkpoint-{self._token}.safetensors", training)
        self._drop(path for path in self._files() if _token(path) < self._token)
        self._epochs, end = epochs, time.monotonic()
        self._due = end + min(TRAINING_PER_SAVING * (end - start), MOST_UNSAVED_SECONDS)

    def clear(self) -> None:
        """Drops the states of this lease and of earlier ones: the trial has ended."""
        self._drop(path for path in self._files() if _token(path) <= self._token)

    def _files(self) -> list[Path]:
        return list(self._folder.glob("checkpoint-*.safetensors"))

    def _drop(self, paths: Iterable[Path]) -> None:
        for path in paths:
            path.unlink(missing_ok=True)


def clear_finished(folder: Path, numbers: Iterable[int]) -> None:
    """Drops what workers that were killed or overtaken have left of a study's finished trials."""
    finished = set(numbers)
    for path in [*folder.glob("trial-*/checkpoint-*"), *folder.glob("trial-*/.*")]:
        if int(path.parent.name.removeprefix("trial-")) in finished:
            path.unlink(missing_ok=True)


def prunes(search: Search, study: Study, number: int, history: History, own: Training) -> bool:
    """Whether a trial ends after its epochs so far; see `pipeline.study.prune`."""
    if study.kind != "search" or search.pruner == "none" or own.finished:
        return False
    return should_prune(
        search,
        number,
        [record["nelbo_nats"] for record in own.records],
        history.curves(number - search.parallelism),
        own.first_epoch_that_counts,
    )


def _run_epoch(training: Training) -> None:
    start, before = time.perf_counter(), time.process_time()
    with failures():
        record: dict[str, Any] = training.run_epoch()
    record["seconds"] = round(time.perf_counter() - start, 4)
    record["core_seconds"] = round(time.process_time() - before, 4)
    record["ended_ms"] = int(time.time() * 1000)


def _token(path: Path) -> int:
    return int(path.stem.removeprefix("checkpoint-"))
