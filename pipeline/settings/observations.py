"""`search.observations`: the table of kept trials that a search begins with, by name and digest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import model_validator

from pipeline.errors import UserError
from pipeline.files import sha256_of
from pipeline.settings.validation import Section, show

SUFFIX = ".trials.jsonl"


class Observations(Section):
    """The file, with its path from the checkout, and the SHA-256 of its content.

    A person writes the file's name alone. With a digest it must be that very table.
    """

    file: str
    sha256: str = ""

    @model_validator(mode="before")
    @classmethod
    def _of_a_name(cls, given: Any) -> Any:
        if isinstance(given, str):
            return {"file": given}
        if not isinstance(given, dict):
            raise ValueError(
                "must be the name of a table that `python -m pipeline keep NAME` has written, but"
                f" got {show(given)}"
            )
        return given


def found(given: Observations, root: Path, where: str) -> Observations:
    """The same with the digest of the table that is there now. Raises UserError."""
    path, key = root / given.file, f"{where}: search.observations: {given.file}"
    if Path(given.file).is_absolute() or root.resolve() not in path.resolve().parents:
        raise UserError(f"{key}: must be a file in the checkout, with its path from there")
    if not path.is_file():
        raise UserError(
            f"{key}: there is no such file in {root}: write it by `python -m pipeline keep NAME`,"
            " or correct the name"
        )
    sha256 = sha256_of(path)
    if given.sha256 not in ("", sha256):
        raise UserError(
            f"{key}: must have the SHA-256 {given.sha256[:12]}, but has {sha256[:12]}: restore it,"
            " or run `dvc repro` again; in a space give its name alone"
        )
    return given.model_copy(update={"sha256": sha256})
