"""One trial from its lease to its end: trained, recorded epoch by epoch, pruned, resumed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.results.keys import TIMES
from pipeline.results.states import Kind, State
from pipeline.study.identity import Study
from pipeline.study.storage.claim import Lease
from pipeline.study.storage.heartbeat import Renewal
from pipeline.study.storage.ledger import Ledger
from pipeline.work.checkpoints import Checkpoints
from pipeline.work.trainings import Trainer, TrialFailed, name_of, outcome, save_run

if TYPE_CHECKING:
    from pipeline.vae.training import Leaves, Training


MOST_SHARED_BYTES = 64 * 1024**2  # of a run's weights in the storage


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
        meta: dict[str, Any],
        *,
        shares: bool = False,
        seed: int | None = None,
    ):
        """`prunes` says whether the trial ends after the epochs that it has behind it; who `shares`
        leaves the weights of a candidate's run in the storage too, for other hosts. `seed` is that
        of a kept trial."""
        self._shares, self._seed = shares, seed
        self._trainer, self._study, self._lease = trainer, study, lease
        self._folder, self._prunes, self._meta = folder, prunes, meta
        self._checkpoints = Checkpoints(folder, lease.number, lease.token)
        self._training: Training | None = None
        self._ledger = ledger.saving(self._save)  # before it waits: it may wait in vain

    def run(self, renewal: Renewal, stopping: Callable[[], bool]) -> None:
        """Trains to the trial's end or until it is told to stop. Raises LeaseLost."""
        training, chosen = None, self._lease.parameters
        self._checkpoints.of = name_of(self._study.id, self._lease.trial, chosen, self._meta)
        try:
            number = self._lease.trial
            training = self._trainer.new_training(self._study, number, chosen, self._seed)
            self._checkpoints.load(training)
            self._training = training
            if not self._train(training, renewal, stopping):
                return
        except TrialFailed as failure:
            records = training.records if training else []
            self._ledger.finish(self._lease, State.FAILED, records, None, str(failure))
            self._checkpoints.clear()
        else:
            if not self._pauses(training):
                self._checkpoints.clear()

    def _save(self) -> None:
        if self._training is not None:
            self._checkpoints.save(self._training, at_once=True)

    def _train(self, training: Training, renewal: Renewal, stopping: Callable[[], bool]) -> bool:
        """Whether the trial has ended. Raises TrialFailed."""
        while not training.finished and len(training.records) < self._until:
            # Asked before an epoch, not after it: a worker may die after its checkpoint, and the
            # next one must come to the same decision on the same records.
            if self._prunes(training):
                self._ledger.finish(self._lease, State.PRUNED, training.records, outcome(training))
                return True
            if stopping():
                self._checkpoints.save(training, at_once=True)
                return False
            with self._trainer.failures():
                ended = self._run_epoch(
                    training, lambda: stopping() or renewal.ended or self._checkpoints.overdue
                )
            renewal.check()
            if not ended:
                self._checkpoints.save(training, at_once=True)
                continue
            self._keep_times(training.records)
            self._checkpoints.save(training)
            # The last epoch is reported with the end: until then the virtual clock counts one more.
            if not training.finished and len(training.records) < self._until:
                reported = self._lease.curve[len(training.records) :]  # a curve never shrinks
                self._ledger.report(self._lease, training.records + reported)
        if self._pauses(training):
            # A candidate is judged at its end alone, however often it is looked at before.
            races = self._study.kind == Kind.CANDIDATE
            result = outcome(training) if races else self._trainer.judge(training)
            self._checkpoints.save(training, at_once=True)
            self._ledger.finish(self._lease, State.PAUSED, training.records, result)
        else:
            self._complete(training)
        return True

    def _run_epoch(self, training: Training, leaves: Leaves) -> bool:
        """Whether the epoch has come to its end; its record then says what all of it took."""
        start, before = time.perf_counter(), time.process_time()
        record = training.run_epoch(leaves)
        seconds, core_seconds = training.spent
        seconds += time.perf_counter() - start
        core_seconds += time.process_time() - before
        training.spent = (0.0, 0.0) if record else (seconds, core_seconds)
        if record is None:
            return False
        record["seconds"], record["core_seconds"] = round(seconds, 4), round(core_seconds, 4)
        record["ended_ms"] = int(time.time() * 1000)
        return True

    @property
    def _until(self) -> int:
        return self._lease.until or self._study.epochs

    def _pauses(self, training: Training) -> bool:
        """Whether it has come to a rung that is not its end."""
        return not training.finished and len(training.records) == self._until

    def _keep_times(self, records: list[dict[str, Any]]) -> None:
        """An epoch that is trained again is the one that was reported: it is no second point.

        Those of a kept trial have no times.
        """
        for before in self._lease.curve[len(records) - 1 : len(records)]:
            for name in TIMES:
                records[-1].pop(name, None)
            records[-1] |= {name: before[name] for name in TIMES if name in before}

    def _complete(self, training: Training) -> None:
        result = self._trainer.judge(training)
        if self._study.kind == Kind.CANDIDATE:
            # A worker that is paused right here may write after its successor. It writes the same
            # bytes: its last epoch is in its checkpoint, and from that the successor began.
            self._checkpoints.save(training, at_once=True)
            self._ledger.renew(self._lease)
            result["files"] = save_run(self._folder, training)
        weights = _weights(self._folder) if self._shares else {}
        self._ledger.finish(self._lease, State.COMPLETE, training.records, result, weights=weights)


def _weights(folder: Path) -> dict[str, bytes]:
    """The files that `save_run` has written, unless they are too large for a database."""
    files = [path for path in folder.glob("*.safetensors") if not path.name.startswith("checkp")]
    if sum(path.stat().st_size for path in files) > MOST_SHARED_BYTES:
        return {}
    return {path.name: path.read_bytes() for path in files}
