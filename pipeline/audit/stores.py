"""Whether the ledger states what the outputs say."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from typing import Any

from pipeline.audit.book import Book
from pipeline.study.confirmation.race_from_records import race_of, used
from pipeline.study.receipt import part_record
from pipeline.study.search.beginning import table_of
from pipeline.study.search.kept_from_ledger import kept_of, origin_of
from pipeline.study.search.kept_table import Kept
from pipeline.study.storage.arithmetic import difference
from pipeline.study.storage.ledger import Ledger
from pipeline.study.storage.rows import Part

SEARCH, RUNS = "search/study.json", "retrain/runs.json"


def findings(book: Book, ledger: Ledger) -> Iterator[str]:
    """What the ledger has otherwise; nothing if it does not know the studies (a copy of runs/)."""
    study = book.search["study"]
    if (yield from _is_known(SEARCH, book.search, ledger)):
        yield from _trials(SEARCH, book.search, ledger.parts(study))
    for run in book.runs:
        if not (yield from _is_known(RUNS, run, ledger)):
            return
    if not book.runs:  # nothing is retrained yet
        return
    specs = [(ledger.find_study(run["study"]) or ("", {}))[1] for run in book.runs]
    trials = [ledger.trials(run["study"], range(book.space.retrain.seeds)) for run in book.runs]
    race = race_of(book.space, [spec["parameters"] for spec in specs], trials)
    for run, ours in zip(book.runs, used(book.space, race, trials), strict=True):
        yield from _trials(RUNS, run, ours)


def _is_known(file: str, study: dict[str, Any], ledger: Ledger) -> Generator[str, None, bool]:
    known = ledger.find_study(study["study"])
    if known and known[1] != study["spec"]:
        yield f"{file}: the ledger has another specification of {study['study']}"
    return known is not None


def _trials(file: str, study: dict[str, Any], ours: Sequence[Part]) -> Iterator[str]:
    records: Sequence[dict[str, Any]] = study["trials"]
    rows = {each.number: part_record(each) for each in ours}
    for record in records:
        row = rows.get(record["number"])
        if row is None:
            yield f"{file}: the ledger has no trial {record['number']} of {study['study']}"
        elif row := json.loads(json.dumps(row)):
            yield from (
                f"{file}: trial {record['number']} of {study['study']}: {key} is not the ledger's"
                for key in record
                if record[key] != row.get(key)
            )


def kept_findings(book: Book, ledger: Ledger) -> Iterator[str]:
    """What the table of kept trials states otherwise than the studies that they were trained in, of
    those that the ledger knows. These may have gone on since."""
    if (given := book.space.search.observations) is None:
        return
    known: dict[str, list[Kept]] = {}
    for kept in table_of(given, book.paths, book.space.name):
        study, number = kept.line.study, kept.line.number
        if (found := ledger.find_study(study)) is None:
            continue
        spec = found[1]
        origin = origin_of(study, spec)
        if study not in known:
            known[study] = kept_of(origin, spec["search"]["seed"], ledger.parts(study))
            if kept.origin != origin:
                yield f"{given.file}: study {study} is not as the ledger has it"
        ours = {each.line.number: each.line for each in known[study]}.get(number)
        if ours is None or difference(kept.line.arithmetic, ours.arithmetic):
            continue  # the same study of another clone
        stated, due = kept.line.curve, json.loads(json.dumps(ours.curve))
        epochs = min(len(stated), len(due))
        wrong = [key for key in ("parameters", "seed") if vars(kept.line)[key] != vars(ours)[key]]
        for key in [*wrong, *(["curve"] if stated[:epochs] != due[:epochs] else [])]:
            yield f"{given.file}: trial {number} of {study}: {key} is not the ledger's"
