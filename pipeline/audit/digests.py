"""Whether files are as their stages left them, made from each other, and of the space as it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.audit.book import Book
from pipeline.files import sha256_of
from pipeline.results.record import INPUTS, RECORD, settings_of
from pipeline.settings.space import Space
from pipeline.study.identity import changes

NOT_OUTPUTS = {RECORD, ".gitignore"}  # in a Git repository DVC writes the latter beside its outs


def findings(book: Book, space: Space) -> Iterator[str]:
    """`space` is that of search_spaces/NAME.yaml."""
    for stage, record in book.records.items():
        folder = book.paths.stage(stage)
        here = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
        for name in sorted(record.outputs.keys() | (here - NOT_OUTPUTS)):
            yield from _file(folder / name, f"{stage}/{name}", record.outputs.get(name))
        for earlier in INPUTS[stage]:
            if earlier in book.records and record.inputs[earlier] != sha256(
                book.paths.stage(earlier) / RECORD
            ):
                yield f"{stage}/{RECORD}: was made from another {earlier}/ than there is"
    yield from _settings(book, space)


def sha256(path: Path) -> str:
    """Of a file's content; empty if there is none."""
    return sha256_of(path) if path.is_file() else ""


def _file(path: Path, shown: str, expected: str | None) -> Iterator[str]:
    if expected is None:
        yield f"{shown}: no stage has recorded this file"
    elif not path.is_file():
        yield f"{shown}: is missing"
    elif sha256(path) != expected:
        yield f"{shown}: is not what its stage wrote: its SHA-256 differs from {RECORD}'s"


def _settings(book: Book, space: Space) -> Iterator[str]:
    """The stages were made with one space, and it is the file's."""
    file = settings_of(space)
    for stage, record in book.records.items():
        now = {section: file[section] for section in record.settings}
        for change in changes(record.settings, now):
            yield f"search_spaces/{space.name}.yaml: {stage} was made with another {change}"
