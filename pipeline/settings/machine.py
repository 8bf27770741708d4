"""machine.yaml and the environment: what changes only where or how fast, as a validated object."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from pipeline.errors import UserError
from pipeline.paths import is_text, main_checkout
from pipeline.settings.deadline import deadline_at
from pipeline.settings.validation import Section, read_yaml, show, validated

DEVICE = re.compile(r"auto|cpu|idle|cuda(:\d+)?", re.ASCII)
URL = re.compile(r"[a-z][a-z0-9]*(\+[a-z0-9]+)?://", re.ASCII)
WORDS = {  # keys of `slurm` that are options of sbatch
    "partition": re.compile(r"[\w.,-]+", re.ASCII),
    "gres": re.compile(r"[\w.:,()-]+", re.ASCII),
    "account": re.compile(r"[\w.-]+", re.ASCII),
    "time": re.compile(r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}", re.ASCII),
}
OPTION = re.compile(r"--[a-z][a-z-]*", re.ASCII)
OURS = {*(f"--{key}" for key in WORDS), "--array", "--job-name", "--signal", "--output", "--error",
        "--requeue", "--no-requeue", "--parsable", "--wrap", "--wait", "--export"}  # fmt: skip
ENVIRONMENT = {  # what overrides a key of machine.yaml
    "MLFLOW_TRACKING_URI": "tracking",
    "PIPELINE_DEVICE": "device",
    "PIPELINE_STORAGE": "storage",
    "PIPELINE_UNTIL": "until",
    "PIPELINE_WORKERS": "workers",
}


class Slurm(Section):
    """How workers are submitted to Slurm: section `slurm` of machine.yaml."""

    partition: str | None = Field(None, description="default: the cluster's")
    gres: str | None = Field(None, description="what each worker gets, such as gpu:1")
    account: str | None = Field(None, description="who is charged")
    time: str | None = Field(None, description="limit, as 90 (minutes), 4:00:00 or 2-12")
    options: list[str] = Field([], description="further options of sbatch, as --qos=night")
    notice: int = Field(120, ge=1, le=65535, description="seconds before the limit to save in")
    checkout: str | None = Field(None, description="its folder on the nodes (default: as here)")
    python: str | None = Field(None, description="on the nodes (default: as here)")
    outlives: bool = Field(False, description="Ctrl-C leaves the workers at work")

    @field_validator("time", mode="before")
    @classmethod
    def _minutes(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _words(self) -> Slurm:
        for key, form in WORDS.items():
            value = getattr(self, key)
            if value is not None and not form.fullmatch(value):
                raise ValueError(f"{key} is not what Slurm takes, but got {value!r}")
        for option in self.options:
            name = option.partition("=")[0]
            if not OPTION.fullmatch(name) or name in OURS:
                raise ValueError(
                    f"options must be long ones of sbatch, as --qos=night, without those that"
                    f" have a key of their own or are set here, but got {option!r}"
                )
        return self

    @property
    def asks_for_gpu(self) -> bool:
        """Whether a worker is to compute on a GPU."""
        return "gpu" in (self.gres or "") or any("--gpus" in each for each in self.options)

    @property
    def sbatch(self) -> list[str]:
        """The options of sbatch that it stands for."""
        values = {key: getattr(self, key) for key in WORDS}
        return [*(f"--{key}={value}" for key, value in values.items() if value), *self.options]


class Machine(Section):
    """machine.yaml: where and how fast. Nothing here changes a byte of an output, as long as all
    devices that a study is worked on compute with one arithmetic."""

    workers: int | None = Field(
        None, ge=1, le=1_000_000, description="worker processes (default: the cores)"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, idle")
    data_mirror: str | None = Field(None, description="folder NAME/FILE to look for data in first")
    storage: str | None = Field(None, description="SQLAlchemy URL of the ledger (default: SQLite)")
    tracking: str | None = Field(
        None, description="MLflow URI (default: SQLite); `none`: no MLflow"
    )
    optuna: str | None = Field(
        None, description="SQLAlchemy URL of an Optuna storage that follows each search"
    )
    until: datetime | None = Field(
        None, description="`run` has an answer by this time, search and retrain alone stop then"
    )

    slurm: Slurm | None = Field(None, description="workers are jobs of Slurm")
    mixed_arithmetic: bool = Field(
        False, description="let machines whose results differ in the last bits share a study"
    )

    @field_validator("until", mode="before")
    @classmethod
    def _time(cls, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, datetime):
            return value.astimezone()
        if isinstance(value, str):
            return deadline_at(value)
        raise ValueError(
            f'must be text in quotes such as "07:00" or "2030-12-31T07:00", but got {show(value)}'
        )

    @model_validator(mode="after")
    def _known_device(self) -> Machine:
        if self.device == "mps":
            raise ValueError(
                "device must be auto, cpu, cuda, cuda:N or idle, but got 'mps': Apple's GPUs have"
                " no float64, in which sums over a split are formed: use cpu"
            )
        if not DEVICE.fullmatch(self.device):
            raise ValueError(
                f"device must be auto, cpu, cuda, cuda:N or idle, but got {self.device!r}"
            )
        return self

    @field_validator("optuna")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        if value is not None and not URL.match(value):
            raise ValueError(
                f"must be a URL of SQLAlchemy, such as sqlite:///optuna.db, but got {show(value)}"
            )
        return value

    @model_validator(mode="after")
    def _reachable_from_nodes(self) -> Machine:
        if self.slurm and not (self.storage or "").startswith("postgresql"):
            raise ValueError(
                "slurm needs a `storage` that all nodes reach: postgresql://USER@HOST/DATABASE"
            )
        if self.slurm and self.device == "idle":
            raise ValueError(
                "device idle is for boxes without Slurm, which grants GPUs itself: use slurm.gres"
            )
        if self.slurm and self.device.startswith("cuda") and not self.slurm.asks_for_gpu:
            raise ValueError(
                f"device {self.device} under slurm needs slurm.gres, such as gpu:1: nobody is to"
                " compute on a GPU that another one has been granted"
            )
        return self


def cores() -> int:
    """How many cores this process may use, as far as its system tells."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load_machine(root: Path) -> Machine:
    """Reads machine.yaml (absent is fine) and the environment over it. Raises UserError."""
    path = main_checkout(root) / "machine.yaml"
    raw = read_yaml(path, "machine.yaml") if path.exists() else {}
    for variable, key in ENVIRONMENT.items():
        if text := os.environ.get(variable):
            if not is_text(text):
                raise UserError(
                    f"environment variable {variable}: must be UTF-8, but got {text!r:.80}: rename"
                    " what it names"
                )
            value: int | str = text
            if key == "workers":
                with suppress(ValueError):  # what is no number is refused below
                    value = int(text)
            validated(Machine, {key: value}, f"environment variable {variable}")
            raw[key] = value
    return validated(Machine, raw, "machine.yaml")
