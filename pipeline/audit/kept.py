"""The trials that a search began with: whether they follow from the table that its space names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from pipeline.audit.book import Book
from pipeline.study.receipt import part_record
from pipeline.study.search.beginning import Beginning, beginning
from pipeline.study.storage.rows import Part

FILE = "search/study.json"


def begins(book: Book) -> Beginning:
    """What the table gives the search. Raises UserError if it cannot be told."""
    channels, height, width = book.manifest["shape"]
    shape, images = (channels, height, width), book.counts["train"]
    study, data = book.study.id, book.manifest["sha256"]
    return beginning(book.space, book.paths, study, data, shape, images)


def findings(parts: Sequence[Part], due: Sequence[Part]) -> Iterator[str]:
    """What is said to be kept and is not in the table, or the other way round."""
    stated = [part_record(part) for part in parts if part.kept]
    records = json.loads(json.dumps([part_record(part) for part in due]))
    if len(stated) != len(records):
        yield f"{FILE}: has {len(stated)} kept parts, but its table gives {len(records)}"
        return
    for record, right in zip(stated, records, strict=True):
        for key in right:
            if record.get(key) != right[key]:
                yield f"{FILE}: trial {right['trial']}: {key} is not that of the kept trial"
