"""The ledger's rows as objects, and the statements that are not of one line."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from pipeline.results.states import State
from pipeline.settings.hyperparameters import Value
from pipeline.study.storage.claim import Lease
from pipeline.study.storage.engine import insert
from pipeline.study.storage.schema import TRIALS, WEIGHTS, arithmetic_key

Mark = tuple[int, str, int]  # of a trial: tokens of its parts, state, most epochs ever reported
Record = dict[str, Any]  # one epoch: epoch, nelbo_nats, recon_nats, kl_nats, ...


@dataclass(frozen=True)
class Part:
    """A row of the ledger: a trial's training from the epoch `since` to `until`.

    It has one for each rung that it went on from, and one more.
    The curve is that of the whole training so far.
    """

    study: str
    number: int
    trial: int
    since: int
    until: int  # 0: the last epoch of the study
    starts: int  # on the virtual clock
    follows: int | None  # the part whose end it began at
    cost: int  # of an epoch, on the virtual clock
    epochs: int  # most ever reported
    state: State
    parameters: dict[str, Value] | None
    curve: list[Record]
    result: Record | None = None
    reason: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    owner: str | None = None
    expires: float = 0.0
    strikes: int = 0
    started_ms: int = 0
    finished_ms: int | None = None

    @property
    def kept(self) -> dict[str, Any] | None:
        """Where a trial was trained that the study begins with; see `study.search.kept_table`."""
        return self.meta.get("kept")

    @property
    def ends(self) -> int:
        """When it ends on the virtual clock, or while it is worked on the earliest that it can.

        One at work is in an epoch that is not reported, for its last one is so with its end. Where
        a training has failed, and after which one it was pruned, an epoch is counted likewise.
        """
        whole = 0 < self.until <= self.epochs
        begun = self.state in (State.RUNNING, State.PRUNED)
        begun = begun or (self.state == State.FAILED and not whole)
        return self.starts + (self.epochs - self.since + begun) * self.cost


COLUMNS = [each.name for each in fields(Part)]
TEXTS = ("parameters", "curve", "result")  # of JSON


@dataclass(frozen=True)
class Trial(Part):
    """A training of a study from its first epoch: all that its parts have come to, as one."""

    earlier: tuple[dict[str, Any], ...] = ()  # the `meta` of its parts before the last

    @property
    def metas(self) -> tuple[dict[str, Any], ...]:
        """Of all its parts: they may have been computed on unlike machines."""
        return (*self.earlier, self.meta)

    @property
    def kept(self) -> dict[str, Any] | None:
        """Of one that its study has begun with, where it was trained: study, number and seed."""
        return self.metas[0].get("kept")

    @property
    def kept_from(self) -> str | None:
        """The same as text, without the seed."""
        return f"{self.kept['study']}/{self.kept['number']}" if self.kept else None


def kept_row(part: Part, now_ms: int) -> dict[str, Any]:
    """The row of a part that a study begins with, which nobody holds."""
    row = {key: json.dumps(each) if key in (*TEXTS, "meta") and each is not None else each
           for key, each in vars(part).items()}  # fmt: skip
    return {**row, "arithmetic": arithmetic_key(part.meta), "started_ms": now_ms,
            "finished_ms": now_ms}  # fmt: skip


def insert_once(db: sa.Connection, table: sa.Table, row: dict[str, Any]) -> None:
    """Inserts unless another host was faster."""
    db.execute(insert(db, table).values(row).on_conflict_do_nothing())


def is_recorded(db: sa.Connection, this: Any, token: int, values: dict[str, Any]) -> bool:
    """Whether a trial ended under this token and with these very values: the same end again."""
    row = db.execute(sa.select(TRIALS).where(this, TRIALS.c.token == token)).mappings().first()
    return row is not None and all(row[name] == value for name, value in values.items())


def leave_files(db: sa.Connection, lease: Lease, files: dict[str, bytes]) -> None:
    """Stores the weights of a trial, which are the same whoever has made them."""
    this = {"study": lease.study, "number": lease.trial}
    for file, content in files.items():
        sha256 = hashlib.sha256(content).hexdigest()
        insert_once(db, WEIGHTS, {**this, "file": file, "sha256": sha256, "content": content})


@lru_cache(maxsize=256)
def _meta(text: str) -> dict[str, Any]:
    """Of all parts of a worker it is the same: read once, and held once. Nobody changes it."""
    found: dict[str, Any] = json.loads(text)
    return found


def part_of(row: Any) -> Part:
    """A row of the table as an object."""
    values = {name: getattr(row, name) for name in COLUMNS}
    texts = {name: json.loads(values[name]) for name in TEXTS if values[name]}
    also = {"until": row.until or 0, "state": State(row.state), "meta": _meta(row.meta)}
    return Part(**values | texts | also)


def trials_of(parts: Iterable[Part]) -> list[Trial]:
    """The trials of parts in order: each is what its last part has come to.

    One that has gone on from a rung keeps its result there until the next part has ended.
    """
    return [_trial(number, own) for number, own in by_trial(parts).items()]


def by_trial(parts: Iterable[Part]) -> dict[int, list[Part]]:
    """The parts of each trial, in the order of the trials."""
    found: dict[int, list[Part]] = defaultdict(list)
    for part in parts:
        found[part.trial].append(part)
    return dict(sorted(found.items()))


def _trial(number: int, parts: list[Part]) -> Trial:
    first, last = parts[0], parts[-1]
    ended = next((part for part in reversed(parts) if part.state != State.RUNNING), last)
    start = {"since": first.since, "starts": first.starts, "started_ms": first.started_ms}
    earlier = tuple(part.meta for part in parts[:-1])
    whole = {**vars(last), **start, "number": number, "result": ended.result}
    return Trial(**whole, earlier=earlier)
