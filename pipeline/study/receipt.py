"""A study as a file: all that its proposals, prunings and ranking follow from, without times."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.files import read_json, write_text
from pipeline.results.keys import TIMES
from pipeline.settings.own_files import SOURCES
from pipeline.settings.space import Space
from pipeline.study.identity import Study
from pipeline.study.storage.rows import Part, Trial

TOLD = ("arithmetic", "kept")  # of what a trial records of where it comes from
HELD = ("number", "state", "parameters", "result", "reason", "curve")  # of any
PLACE = ("trial", "since", "until", "starts", "follows", "cost")  # of a part of a search


def write_studies(path: Path, studies: Sequence[tuple[Study, Sequence[Part]]]) -> None:
    """Writes studies with their parts or runs, a line each, so that two files can be compared."""
    blocks = []
    for study, parts in studies:
        head = json.dumps({"study": study.id, "kind": study.kind, "spec": study.spec})
        lines = ",\n".join(json.dumps(part_record(part)) for part in parts)
        blocks.append(f'{head[:-1]}, "trials": [\n{lines}\n]}}')
    write_text(path, "[" + ",\n".join(blocks) + "]\n")


def read_studies(path: Path) -> list[dict[str, Any]]:
    """What `write_studies` has written: study, kind, spec and trials of each."""
    studies: list[dict[str, Any]] = read_json(path)
    return studies


def part_record(part: Part) -> dict[str, Any]:
    """What a part or a run has come to: no times, no hosts, of a reason its first line."""
    place = {} if isinstance(part, Trial) else {name: getattr(part, name) for name in PLACE}
    record: dict[str, Any] = {
        "number": part.number,
        **place,
        "state": part.state,
        "parameters": part.parameters,
        "result": part.result,
        "reason": part.reason.splitlines()[0] if part.reason else None,
        "curve": [
            {key: value for key, value in epoch.items() if key not in TIMES} for epoch in part.curve
        ],
    }
    return record | {key: part.meta[key] for key in TOLD if key in part.meta}


def recorded_part(study: str, record: dict[str, Any]) -> Part:
    """The part that `part_record` was made from, as far as the record goes."""
    run = dict.fromkeys(PLACE, 0) | {"trial": record["number"], "follows": None}
    place = {name: record.get(name, run[name]) for name in PLACE}
    return Part(
        study=study,
        epochs=len(record["curve"]),
        meta={key: record[key] for key in TOLD if key in record},
        **place,
        **{name: record[name] for name in HELD},
    )


def left_out(space: Space) -> dict[str, Any]:
    """The sections and budgets that the identity of a study leaves out, to be kept beside it."""
    budgets = space.search.model_dump(include={"trials", "total_epochs", "stop", "fallback"})
    if table := space.search.observations:
        budgets["observations"] = table.model_dump()
    later = {name: space.section(name) for name in ("retrain", "evaluate", "render")}
    # A data set with test images of its own takes no `test`, so what was not written is not said.
    data = space.data.model_dump(exclude_unset=True)
    if read := space.section("data").get(SOURCES):
        data[SOURCES] = read
    return {"data": data, **later, "search": budgets}
