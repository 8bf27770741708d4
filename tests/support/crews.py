"""A tiny sweep on digits whose trials complete, fail and pause; to be worked on and killed."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from ledgers import open_ledger
from recording import record_stages
from surroundings import ARITHMETIC
from trainings import TRAIN, VALIDATION, digits

from pipeline.files import write_json
from pipeline.paths import Paths
from pipeline.settings.machine import Machine, load_machine
from pipeline.settings.space import Space, parse_space
from pipeline.study.identity import Study, candidate_study, search_study
from pipeline.study.storage.ledger import Ledger, Trial
from pipeline.study.storage.workers import Presence
from pipeline.study.tables import curves_table, trials_table
from pipeline.vae.training import Leaves, Training
from pipeline.work.job import Job
from pipeline.work.owners import owner_name
from pipeline.work.worker import Worker

ROOT = Path(__file__).parents[2]
DATA = "d" * 64
DEADLINE = 120.0
SPACE: dict[str, Any] = {
    "data": {"name": "digits"},
    "parameters": {
        "lr": {"low": 4e-3, "high": 1.0, "log": True},  # the highest diverge
        "optimizer": {"choices": ["adam", "sgd"]},
        "momentum": {"low": 0.1, "high": 0.95, "when": {"optimizer": "sgd"}},
        "hidden": [32],
        "latent_dim": 4,
        "batch_size": 16,
        "patience": 1,
        "monitor": "recon",
    },
    "search": {
        "trials": 8,
        "epochs": 8,
        "parallelism": 2,
        "startup_trials": 3,
        "rungs": [3, 8],
        "seed": 9,
    },
    "retrain": {"top": 2, "seeds": 2, "epochs": 10},
    "evaluate": {"nelbo_samples": 1, "iw_samples": 2, "probe": False},
}


class Killed(BaseException):
    """The end of a process, which nothing in it can catch."""


def sweep(**sections: dict[str, Any]) -> dict[str, Any]:
    """The sweep above with these keys of its sections over its own."""
    return {**SPACE, **{name: {**SPACE.get(name, {}), **keys} for name, keys in sections.items()}}


@dataclass
class Sweep:
    """A sweep in a folder of its own, with data prepared."""

    root: Path
    space: Space
    storage: str | None = None  # default: SQLite in its folder
    more: str = ""  # lines of its machine.yaml
    tracking: str = "none"

    @property
    def paths(self) -> Paths:
        return Paths(self.root, "tiny")

    @property
    def ledger(self) -> Ledger:
        self.paths.ledger.parent.mkdir(parents=True, exist_ok=True)
        return open_ledger(self.storage or f"sqlite:///{self.paths.ledger}")

    @property
    def study(self) -> Study:
        return search_study(self.space, DATA)

    def candidates(self, *settings: dict[str, Any]) -> list[Study]:
        return [candidate_study(self.space, DATA, setting) for setting in settings]

    def worker(
        self,
        ledger: Ledger | None = None,
        *settings: dict[str, Any],
        presence: Presence | None = None,
    ) -> Worker:
        """A worker in this process, on the search or on the candidates with these settings."""
        ledger = ledger or self.ledger
        studies = self.candidates(*settings) or [self.study]
        for study in studies:
            ledger.open_study(study.id, "tiny", study.kind, study.spec)
        job = Job(
            stage="search",
            space=self.space,
            studies=studies,
            candidates={s.id: c for s, c in zip(studies, settings, strict=False)},
            lineage={"git_commit": ""},
        )
        return Worker(job, ledger, self.root, "cpu", presence=presence)

    def trials(self, study: Study | None = None) -> list[Trial]:
        ledger = self.ledger
        try:
            return ledger.trials((study or self.study).id)
        finally:
            ledger.close()

    def tables(self, study: Study | None = None) -> bytes:
        """What the stage writes of a study: all that must not depend on who was killed when."""
        out, trials = io.StringIO(), self.trials(study)
        trials_table(trials, list(self.space.searched)).to_csv(out)
        curves_table(trials).to_csv(out)
        return out.getvalue().encode()

    def outputs(self, *stages: str) -> dict[str, bytes]:
        """The files of these stages by name."""
        folder = self.paths.runs / "tiny"
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for stage in stages
            for path in sorted((folder / stage).rglob("*"))
            if path.is_file()
        }

    def machine(self, workers: int = 1) -> Machine:
        """This machine with so many workers, and without MLflow if nothing else is set."""
        text = f"workers: {workers}\ntracking: {self.tracking}\ndevice: cpu\n{self.more}"
        (self.root / "machine.yaml").write_text(text)
        return load_machine(self.root)

    def start(
        self, stage: str, workers: int, *before: str, **environment: str
    ) -> subprocess.Popen[str]:
        """The command line, as a person starts it, or as the program `before` does."""
        self.machine(workers)
        known = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(self.root)}
        known |= ARITHMETIC
        if self.storage:
            known["PIPELINE_STORAGE"] = self.storage
        with (self.root / "stderr.txt").open("a") as errors:
            return subprocess.Popen(
                [*before, sys.executable, "-m", "pipeline", stage, "tiny"],
                cwd=self.root,
                env={**known, **environment},
                stderr=errors,
                text=True,
            )

    @property
    def errors(self) -> str:
        """What all commands have said so far."""
        return (self.root / "stderr.txt").read_text()

    def held(self, ledger: Ledger | None = None) -> list[Trial]:
        """The trials in work, of all studies of the sweep."""
        ledger, found = ledger or self.ledger, []
        for kind in ("search", "candidate"):
            for study in ledger.studies("tiny", kind):
                found += [trial for trial in ledger.trials(study) if trial.owner]
        return found


def make_sweep(root: Path, raw: dict[str, Any] = SPACE) -> Sweep:
    """A folder like a clone's, with the sweep `tiny` and 300 digits, as `prepare` leaves them."""
    (root / "search_spaces").mkdir(parents=True)
    (root / "search_spaces" / "tiny.yaml").write_text(yaml.safe_dump(raw))
    made = Sweep(root, parse_space("tiny", raw, "search_spaces/tiny.yaml"))
    made.paths.prepare.mkdir(parents=True)
    for split, images in zip(("train", "validation"), digits(), strict=True):
        np.save(made.paths.prepare / f"{split}_images.npy", images.numpy())
    manifest = {"sha256": DATA, "shape": [1, 8, 8], "data": "digits"}
    manifest |= {"counts": {"train": TRAIN, "validation": VALIDATION}}
    write_json(made.paths.prepare / "manifest.json", manifest)
    record_stages(made.paths, made.space, "prepare")
    return made


def pid_of(trial: Trial) -> int:
    """The process that holds a trial."""
    assert trial.owner is not None
    return int(trial.owner.split("/")[1])


def children(pid: int) -> list[int]:
    """The live child processes of a process."""
    try:
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    except OSError:
        return []


def alive(pid: int) -> bool:
    """Whether a process has not ended."""
    return not owner_name(pid).endswith("/")


def in_midst_of_a_trial(made: Sweep) -> Trial | None:
    """A trial with an epoch behind it, whose worker stands still so that it stays in it."""
    for trial in made.held():
        if trial.curve:
            os.kill(pid_of(trial), signal.SIGSTOP)
            now = made.ledger.trials(trial.study, [trial.number])[0]
            if now.owner == trial.owner and len(now.curve) < made.study.epochs - 2:
                return now
            os.kill(pid_of(trial), signal.SIGCONT)
    return None


def eventually(what: Callable[[], Any], why: str) -> Any:
    """The first true value of `what()`; an error after two minutes."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        if value := what():
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited in vain: {why}")


def altered(folder: Path, **constants: object) -> dict[str, str]:
    """The environment of commands to whom constants of `pipeline.MODULE` are others.

    They are named as MODULE__CONSTANT, with __ for dots.
    """
    folder.mkdir()
    lines = ["import sys", "if 'pipeline' in sys.orig_argv:"]
    for name, value in constants.items():
        module, _, constant = name.rpartition("__")
        module = f"pipeline.{module.replace('__', '.')}"
        lines.append(f"    import {module}; {module}.{constant} = {value!r}")
    (folder / "sitecustomize.py").write_text("\n".join(lines))
    return {"PYTHONPATH": f"{folder}:{ROOT}"}


@contextmanager
def no_one_left(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """Ends a command and its workers when the test is over, however that goes."""
    try:
        yield process
    finally:
        for pid in children(process.pid):
            _kill(pid)
        process.kill()
        process.wait()


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def at_epoch(
    monkeypatch: pytest.MonkeyPatch, number: int, action: Callable[[Training], None]
) -> None:
    """Has `action` happen once, when the first epoch `number` that is trained begins."""
    run_epoch, pending = Training.run_epoch, [action]

    def interrupted(training: Training, *leaves: Leaves) -> dict[str, Any] | None:
        if pending and len(training.records) == number - 1:
            pending.pop()(training)
        return run_epoch(training, *leaves)

    monkeypatch.setattr(Training, "run_epoch", interrupted)
