"""The worker process: claims trials, trains them epoch by epoch, records them, until none is left.

It is told what to do by a job file, reads the prepared data once and lives for the whole study.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from pipeline.config import Space
from pipeline.errors import UserError
from pipeline.hyperparameters import Value
from pipeline.paths import Paths
from pipeline.seeds import derive_seed
from pipeline.study.history import History
from pipeline.study.identity import Study
from pipeline.study.ledger import LEASE_SECONDS, Lease, LeaseLost, Ledger
from pipeline.study.propose import Proposer
from pipeline.study.prune import should_prune

if TYPE_CHECKING:
    from pipeline.vae.fit import Training

INTERRUPTED = 130
IDLE_SECONDS = 0.2


class Job(BaseModel):
    """What a worker needs to know. The storage URL, which may hold a password, is not in it."""

    model_config = ConfigDict(extra="forbid")

    root: Path
    space: Space
    studies: list[Study]
    candidates: dict[str, dict[str, Value]]  # of studies with one setting: its parameters
    device: str
    lineage: dict[str, Any]  # what every trial records of where it comes from


def owner_name(pid: int) -> str:
    """Who holds a lease: host, process and its start time (a pid alone may be reused)."""
    return f"{socket.gethostname()}/{pid}/{process_start(pid)}"


def process_start(pid: int) -> str:
    """The start time of a living process in clock ticks; empty if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return ""
    return fields[19] if fields[0] not in "ZX" else ""  # dead, though nobody has waited for it


class Worker:
    """Works on the studies of a job in their order."""

    def __init__(self, job: Job, ledger: Ledger):
        import torch

        from pipeline.vae.data import load_images
        from pipeline.vae.process import prepare_process

        prepare_process()
        self._job = job
        self._ledger = ledger
        self._paths = Paths(job.root, job.space.name)
        self._owner = owner_name(os.getpid())
        self._device = resolve_device(job.device)
        self._train = load_images(self._paths.prepare, "train", self._device)
        self._validation = load_images(self._paths.prepare, "validation", self._device)
        self._gate: float | None = None  # the train-mean image's NELBO
        self._meta = {
            **job.lineage,
            "host": socket.gethostname(),
            "device": device_name(self._device),
            "torch": torch.__version__,
        }
        self.stopping = False

    def work(self) -> int:
        """Until all trials are finished (0) or it is told to stop (130)."""
        histories = {study.id: History(self._ledger, study.id) for study in self._job.studies}
        proposers = {
            study.id: Proposer(
                self._job.space.searched, self._job.space.search, histories[study.id]
            )
            for study in self._job.studies
        }
        while not self.stopping:
            claimed = self._claim()
            if claimed:
                study, lease = claimed
                try:
                    self._run(study, lease, histories[study.id], proposers[study.id])
                except LeaseLost as error:
                    print(f"left alone: {error}", file=sys.stderr, flush=True)
            elif self._all_finished():
                return 0
            else:
                time.sleep(IDLE_SECONDS)
        self._ledger.release(self._owner, blameless=True)
        return INTERRUPTED

    def _claim(self) -> tuple[Study, Lease] | None:
        for study in self._job.studies:
            lease = self._ledger.claim(
                study.id,
                budget=study.budget,
                parallelism=study.parallelism,
                owner=self._owner,
                meta=self._meta,
            )
            if lease:
                return study, lease
        return None

    def _all_finished(self) -> bool:
        return all(
            self._ledger.finished(study.id, study.budget) >= study.budget
            for study in self._job.studies
        )

    def _run(self, study: Study, lease: Lease, history: History, proposer: Proposer) -> None:
        from pipeline.vae.checkpoint import load_training

        checkpoint = self._paths.trial(study.id, lease.number) / "checkpoint.safetensors"
        training = None
        with _Renewal(self._ledger, lease) as renewal:
            chosen = lease.parameters
            if chosen is None:
                candidate = self._job.candidates.get(study.id)
                chosen = proposer.propose(lease.number) if candidate is None else candidate
                self._ledger.propose(lease, chosen)
            try:
                training = self.new_training(study, lease.number, chosen)
                if checkpoint.exists():
                    load_training(checkpoint, training)
                ended = self._train_trial(study, lease, training, history, renewal, checkpoint)
            except _TrialFailed as failure:
                records = training.records if training else []
                self._ledger.finish(lease, "failed", records, None, str(failure))
                ended = True
        if ended:
            checkpoint.unlink(missing_ok=True)

    def _train_trial(
        self,
        study: Study,
        lease: Lease,
        training: Training,
        history: History,
        renewal: _Renewal,
        checkpoint: Path,
    ) -> bool:
        """Trains to the trial's end (True) or until told to stop (False). Raises _TrialFailed."""
        from pipeline.vae.checkpoint import save_training

        while not training.finished:
            # Asked before an epoch, not after it: a worker may die after its checkpoint, and the
            # next one must come to the same decision on the same records.
            if self._prunes(study, lease.number, training, history):
                self._ledger.finish(lease, "pruned", training.records, _result(training))
                return True
            if self.stopping:
                return False
            start, before = time.perf_counter(), time.process_time()
            with _failures():
                record = training.run_epoch()
            record["seconds"] = round(time.perf_counter() - start, 4)
            record["core_seconds"] = round(time.process_time() - before, 4)
            record["ended_ms"] = int(time.time() * 1000)
            renewal.check()
            save_training(checkpoint, training)
            self._ledger.report(lease, training.records)
        self._complete(study, lease, training, checkpoint.parent)
        return True

    def new_training(self, study: Study, number: int, chosen: dict[str, Value]) -> Training:
        """The training of a trial before its first epoch."""
        from pipeline.vae.fit import Training

        space = self._job.space
        config = {**space.hyperparameters(chosen).model_dump(), **space.model.model_dump()}
        label = "seed" if study.kind == "candidate" else "trial"
        seed = derive_seed(space.search.seed, label, number)
        with _failures():
            return Training(self._train, self._validation, config, seed, study.epochs, self._device)

    def _complete(self, study: Study, lease: Lease, training: Training, folder: Path) -> None:
        from pipeline.vae.checkpoint import save_weights

        result = _result(training)
        reason = self._broken(training, result)
        if reason:
            raise _TrialFailed(reason)
        if study.kind == "candidate":
            save_weights(folder / "model.safetensors", training.kept_weights())
            save_weights(folder / "first_epoch.safetensors", training.first_weights)
            save_weights(folder / "last_epoch.safetensors", training.vae.state_dict())
        self._ledger.finish(lease, "complete", training.records, result)

    def _prunes(self, study: Study, number: int, training: Training, history: History) -> bool:
        search = self._job.space.search
        if study.kind != "search" or search.pruner == "none" or training.finished:
            return False
        return should_prune(
            search,
            number,
            [record["nelbo_nats"] for record in training.records],
            history.curves(number - search.parallelism),
            training.first_epoch_that_counts,
        )

    def _broken(self, training: Training, result: dict[str, Any]) -> str | None:
        """The gate: worse than the train-mean image is broken, whatever its loss says."""
        from pipeline.vae.fit import VALIDATION_SEED
        from pipeline.vae.measure import mean_image_nelbo

        if self._gate is None:
            self._gate = mean_image_nelbo(
                training.vae, self._train, self._validation, VALIDATION_SEED
            )
        limit = self._gate
        # With two objectives a collapsed model is the honest end of the rate axis.
        if result["nelbo_nats"] < limit or len(self._job.space.search.objectives) == 2:
            return None
        return (
            f"broken model: NELBO {result['nelbo_nats']:.2f} is not below the train-mean image's"
            f" {limit:.2f} nats (diverged or collapsed; kl {result['kl_nats']:.2f})"
        )


class _TrialFailed(Exception):
    """The trial's own doing, as opposed to the machine's (a full disk, a lost database)."""


@contextmanager
def _failures() -> Iterator[None]:
    """What goes wrong in the training itself is a result: a reason and a traceback."""
    from pipeline.vae.fit import Diverged

    try:
        yield
    except Diverged as error:
        raise _TrialFailed(str(error)) from None
    except Exception as error:
        name = type(error).__name__
        rule = "out of memory" if name in ("MemoryError", "OutOfMemoryError") else name
        raise _TrialFailed(f"{rule}: {error}\n{traceback.format_exc()}") from None


def _result(training: Training) -> dict[str, Any]:
    kept = training.records[training.kept_epoch - 1]
    names = ("nelbo_nats", "recon_nats", "kl_nats", "active_units")
    return {
        **{name: kept[name] for name in names},
        "epochs": len(training.records),
        "best_epoch": training.kept_epoch,
        "weights": sum(p.numel() for p in training.vae.parameters()),
    }


class _Renewal:
    """Renews a lease in the background while its trial is at work."""

    def __init__(self, ledger: Ledger, lease: Lease):
        self._ledger, self._lease = ledger, lease
        self._done = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> _Renewal:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def check(self) -> None:
        """Raises what ended the renewals: LeaseLost, or an error of the storage."""
        if self._error:
            raise self._error

    def _renew(self) -> None:
        while not self._done.wait(LEASE_SECONDS / 3):
            try:
                self._ledger.renew(self._lease)
            except Exception as error:
                self._error = error
                return


def resolve_device(name: str) -> str:
    """`auto` as the best device of this machine. Raises UserError for one that is not there."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch without CUDA
        reason = str(error).splitlines()[0]
        raise UserError(
            f"device {name} cannot be used: {reason}: correct `device` in machine.yaml"
        ) from None
    return name


def device_name(device: str) -> str:
    """The device as a person knows it."""
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"


def main(job_file: Path) -> int:
    """Runs a job. The parent holds the other end of standard input: when it dies, so do we."""
    job = Job.model_validate_json(job_file.read_text(encoding="utf-8"))
    storage = os.environ["PIPELINE_STORAGE"]
    threading.Thread(target=_die_with_parent, daemon=True).start()
    worker = Worker(job, Ledger(storage))

    def stop(*_: object) -> None:
        worker.stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    return worker.work()


def _die_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)
