"""The trials that a search began with: whether they follow from the table that its space names."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pipeline.audit.book import Book
from pipeline.errors import UserError
from pipeline.study.observations import beginning
from pipeline.study.receipt import part_record

FILE = "search/study.json"


def findings(book: Book) -> Iterator[str]:
    """What is said to be kept and is not in the table, or the other way round."""
    channels, height, width = book.manifest["shape"]
    shape, images = (channels, height, width), book.steps["train"]
    study, data = book.study.id, book.manifest["sha256"]
    try:
        due = beginning(book.space, book.paths, study, data, shape, images).parts
    except UserError as error:
        yield f"{FILE}: what it began with cannot be told: {error}"
        return
    stated = [part_record(part) for part in book.parts if part.kept]
    records = json.loads(json.dumps([part_record(part) for part in due]))
    if len(stated) != len(records):
        yield f"{FILE}: has {len(stated)} kept parts, but its table gives {len(records)}"
        return
    for record, right in zip(stated, records, strict=True):
        for key in right:
            if record.get(key) != right[key]:
                yield f"{FILE}: trial {right['trial']}: {key} is not that of the kept trial"
