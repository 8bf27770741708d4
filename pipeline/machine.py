"""machine.yaml and the environment: what changes only where or how fast, as a validated object."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from pipeline.deadline import deadline_at
from pipeline.validation import Section, read_yaml, show, validated

DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
ENVIRONMENT = {  # what overrides a key of machine.yaml
    "MLFLOW_TRACKING_URI": "tracking",
    "PIPELINE_STORAGE": "storage",
    "PIPELINE_UNTIL": "until",
    "PIPELINE_WORKERS": "workers",
}


class Machine(Section):
    """machine.yaml: where and how fast. Nothing here changes a byte of an output."""

    workers: int | None = Field(
        None, ge=1, le=1_000_000, description="worker processes (default: the cores)"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1")
    data_mirror: str | None = Field(None, description="folder NAME/FILE to look for data in first")
    storage: str | None = Field(None, description="SQLAlchemy URL of the ledger (default: SQLite)")
    tracking: str | None = Field(
        None, description="MLflow URI (default: SQLite); `none`: no MLflow"
    )
    until: datetime | None = Field(
        None, description="search and retrain stop at this time and go on with the next command"
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
        if not DEVICE.fullmatch(self.device):
            raise ValueError(f"device must be auto, cpu, cuda or cuda:N, but got {self.device!r}")
        return self


def load_machine(root: Path) -> Machine:
    """Reads machine.yaml (absent is fine) and the environment over it. Raises UserError."""
    path = root / "machine.yaml"
    raw = read_yaml(path, "machine.yaml") if path.exists() else {}
    for variable, key in ENVIRONMENT.items():
        if text := os.environ.get(variable):
            value: int | str = text
            if key == "workers":
                with suppress(ValueError):  # what is no number is refused below
                    value = int(text)
            validated(Machine, {key: value}, f"environment variable {variable}")
            raw[key] = value
    return validated(Machine, raw, "machine.yaml")
