"""What workers are to do, as the storage keeps it: they need this and the storage's URL."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import UserError
from pipeline.seeds import digest
from pipeline.settings.hyperparameters import Value
from pipeline.settings.space import Space
from pipeline.study.identity import Study
from pipeline.study.storage.ledger import Ledger
from pipeline.study.storage.workers import find_job, keep_job
from pipeline.work.lineage import code_sha256


class Job(BaseModel):
    """What a worker needs to know. Folders, devices and passwords are its host's business."""

    model_config = ConfigDict(extra="forbid")

    stage: str
    space: Space
    studies: list[Study]
    candidates: dict[str, dict[str, Value]]  # of studies with one setting: its parameters
    shares: bool = False  # whether other hosts use the storage too
    mixed_arithmetic: bool = False  # whether trials of other machines may be joined
    informing: list[dict[str, Value]] = []  # settings that a search tries first
    lineage: dict[str, Any]  # what every trial records of where it comes from

    @property
    def id(self) -> str:
        """Of all jobs with these studies, whenever and by whomever they were given."""
        key = digest([study.id for study in self.studies])[:12]
        return f"{self.space.name}-{self.stage}-{key}"

    def keep(self, ledger: Ledger) -> None:
        """Leaves it in the storage for workers, in place of what was there under its id."""
        keep_job(ledger, self.id, self.space.name, self.model_dump_json())


def open_job(ledger: Ledger, name: str) -> Job:
    """The job with this id, or the latest of the sweep with this name. Raises UserError."""
    content = find_job(ledger, name)
    if content is None:
        raise UserError(
            f"worker: the storage has no job {name}: `python -m pipeline search NAME` or `retrain`"
            " leaves it there, on any host of this storage"
        )
    try:
        return Job.model_validate_json(content)
    except ValidationError:
        raise UserError(
            f"worker: job {name} was given by another version of the code: update this checkout,"
            " or give the job's command anew"
        ) from None


def check_code(job: Job) -> None:
    """Raises UserError for a job that other code has given: a trial records one of them alone."""
    theirs = job.lineage.get("code_sha256")
    if theirs not in (None, code_sha256()):
        raise UserError(
            f"worker: the code of job {job.id} is another one than this checkout's: bring both to"
            " the same commit, without changes in pipeline/, then start the worker again"
        )
