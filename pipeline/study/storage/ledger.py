"""The durable record of all trials' parts and of who works on them, in SQLite or PostgreSQL.

A worker holds a *lease* on its trial: a fencing token and a time of expiry. Every write names the
token in the same statement that changes the row, so a worker whose trial was taken over (it was
paused past its lease, say) changes nothing more and gets `LeaseLost`.
"""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

from pipeline.paths import Paths
from pipeline.results.states import Kind, State
from pipeline.seeds import digest
from pipeline.settings.machine import Machine
from pipeline.study.storage.claim import GIVEN, Claim, Claimant, Lease, Plan
from pipeline.study.storage.database import Database
from pipeline.study.storage.engine import clock, milliseconds, server_start
from pipeline.study.storage.rows import (
    Mark,
    Part,
    Record,
    Trial,
    insert_once,
    is_recorded,
    kept_row,
    leave_files,
    part_of,
    trials_of,
)
from pipeline.study.storage.schema import ORIGINS, STUDIES, TRIALS, WEIGHTS
from pipeline.study.storage.transitions import GIVE_BACK, STRIKE

LEASE_SECONDS = 60.0
GIVEN_SECONDS = 10.0  # in which a part that was begun for a worker is to be fetched
LEFT_OUT = "left_out"  # of a study's specification: what is no part of its identity
FORGIVING_SECONDS = 20.0  # after a server's start, for its workers to find it again


class LeaseLost(Exception):
    """Another worker has taken this trial over; what this one computes no longer counts."""


class Ledger(Database):
    """All studies of one storage. Every method is one transaction.

    *Ownership.* `claim` and `begin` give a lease: the right to write one part. The methods that
    take a lease name its token in the statement that writes; they raise LeaseLost, and change
    nothing, once the trial has ended or is another's. A lease that is not renewed for LEASE_SECONDS
    may be taken over; until it is, it counts. `release` is for whoever knows that an owner is dead
    or done.

    *Done twice*, as a `Database` may, each comes to the same: reads change nothing, `open_study`
    inserts what is not there, the leased writes set values under a token, `finish` knows its own
    end, `claim` and `begin` their own grants, `release` finds nothing more to release (and says so:
    that answer alone may be lost).
    """

    _seen: Callable[[sa.Connection, float], None] | None = None

    def seeing(self, note: Callable[[sa.Connection, float], None]) -> Ledger:
        """The same ledger for a worker, which is seen with each write to its trial: `note` is given
        the connection and the time."""
        other = copy.copy(self)
        other._seen = note
        return other

    def open_study(
        self,
        study: str,
        name: str,
        kind: Kind,
        spec: dict[str, Any],
        left_out: dict[str, Any] | None = None,
        begins_with: Sequence[Part] = (),
    ) -> None:
        """Registers a study; an existing one stays as it is.

        `left_out` is what its search space says and its identity does not; `begins_with` are the
        parts of kept trials.
        """
        kept = {**spec, LEFT_OUT: left_out} if left_out else spec
        row = {"id": study, "name": name, "kind": kind, "spec": json.dumps(kept)}

        def insert(db: sa.Connection) -> None:
            known = db.execute(sa.select(STUDIES.c.id).where(STUDIES.c.id == study)).first()
            if not known:
                now = milliseconds(clock(db))
                insert_once(db, STUDIES, {**row, "created_ms": now})
                for part in begins_with:
                    insert_once(db, TRIALS, kept_row(part, now))

        self.write(insert)

    def studies(self, name: str, kind: Kind) -> dict[str, dict[str, Any]]:
        """The specifications of the studies of a sweep, oldest first."""
        query = sa.select(STUDIES.c.id, STUDIES.c.spec).where(
            STUDIES.c.name == name, STUDIES.c.kind == kind
        )
        rows = self.rows(query.order_by(STUDIES.c.created_ms, STUDIES.c.id))
        return {row.id: _parts(row.spec)[0] for row in rows}

    def find_study(self, study: str) -> tuple[str, dict[str, Any], dict[str, Any]] | None:
        """The sweep's name, the specification, and what the identity leaves out, {} if unknown."""
        query = sa.select(STUDIES.c.name, STUDIES.c.spec).where(STUDIES.c.id == study)
        found = self.rows(query)
        return (found[0].name, *_parts(found[0].spec)) if found else None

    def keep_origin(self, study: str, source: dict[str, Any]) -> str:
        """Keeps what trials of a study are to name in their `meta`; the digest to name it by."""
        key = digest(source)
        row = {"study": study, "digest": key, "content": json.dumps(source)}
        self.write(lambda db: insert_once(db, ORIGINS, row))
        return key

    def origin(self, study: str, key: str) -> dict[str, Any]:
        """What `keep_origin` has kept under this digest; {} if nothing."""
        query = sa.select(ORIGINS.c.content).where(
            ORIGINS.c.study == study, ORIGINS.c.digest == key
        )
        found = self.rows(query)
        return json.loads(found[0].content) if found else {}

    def created_ms(self, study: str) -> int:
        """When a study was opened: with its name, what tells it from the same one elsewhere."""
        query = sa.select(STUDIES.c.created_ms).where(STUDIES.c.id == study)
        return self.read(lambda db: int(db.execute(query).scalar_one()))

    def marks(self, study: str) -> dict[int, Mark]:
        """What moves whenever a trial does, by number, in order. Reads no curve."""
        row = TRIALS.c
        query = sa.select(row.trial, row.token, row.state, row.epochs)
        query = query.where(row.study == study, row.starts.is_not(None))
        found: dict[int, Mark] = {}
        for each in self.rows(query.order_by(row.trial, row.number)):
            tokens = found[each.trial][0] if each.trial in found else 0
            found[each.trial] = (tokens + each.token, each.state, each.epochs)
        return found

    def claim(
        self, study: str, who: Claimant, *, budget: int, among: Collection[int] | None = None
    ) -> Lease | None:
        """An abandoned part below `budget` to go on with, one `among` these; None: there is none.
        Raises OtherArithmetic, as all that give a lease do."""
        return self._grant(study, who, lambda db, claim: claim.abandoned(db, budget, among))

    def begin(self, study: str, plan: Plan, who: Claimant) -> Lease | None:
        """The planned part of a trial; None: somebody was faster. Raises Reopened if the plan is of
        before."""
        return self._grant(study, who, lambda db, claim: claim.begin(db, plan))

    def give(self, study: str, plan: Plan, who: Claimant, *, to: str) -> None:
        """Begins the part for another worker, who has GIVEN_SECONDS to fetch it. Raises as `begin`
        does."""

        def grant(db: sa.Connection, claim: Claim) -> Lease | None:
            soon = claim.now + GIVEN_SECONDS
            return replace(claim, expires=soon, gives=True).begin(db, plan)

        self._grant(study, replace(who, owner=to), grant)

    def fetch(self, study: str, who: Claimant) -> Lease | None:
        """What another worker has begun for this one, if anything."""
        return self._grant(study, who, lambda db, claim: claim.given(db))

    def _grant(
        self, study: str, who: Claimant, grant: Callable[[sa.Connection, Claim], Lease | None]
    ) -> Lease | None:
        id_ = uuid.uuid4().hex

        def write(db: sa.Connection) -> Lease | None:
            now, started = clock(db), server_start(db)
            young = 0.0 <= now - started < FORGIVING_SECONDS  # below 0: its clock was set back
            forgiven = started + LEASE_SECONDS if young else 0.0
            return grant(db, Claim(id_, study, who, now, now + LEASE_SECONDS, forgiven))

        return self.write(write)

    def report(self, lease: Lease, curve: list[Record]) -> None:
        """Records all epochs so far and renews the lease. Raises LeaseLost.

        Only an epoch that was never reached before clears the strikes: a trial that is taken over
        reads earlier ones from its checkpoint or does them again, and then kills the next worker.
        """
        epochs, strikes = TRIALS.c.epochs, TRIALS.c.strikes
        farther = epochs < len(curve)
        self._update(
            lease,
            curve=json.dumps(curve),
            epochs=sa.case((farther, len(curve)), else_=epochs),
            strikes=sa.case((farther, 0), else_=strikes),
        )

    def renew(self, lease: Lease) -> None:
        """Renews the lease within a long epoch. Raises LeaseLost."""
        self._update(lease)

    def finish(
        self,
        lease: Lease,
        state: State,
        curve: list[Record],
        result: Record | None,
        reason: str | None = None,
        weights: dict[str, bytes] | None = None,
    ) -> None:
        """Records the end of a trial: complete, pruned or failed. Raises LeaseLost.

        `weights` are files for the other hosts, whose contents `weights` returns.
        """
        self._update(
            lease,
            state=state,
            curve=json.dumps(curve),
            epochs=len(curve),
            result=json.dumps(result) if result is not None else None,
            reason=reason,
            owner=None,
            files=weights,
        )

    def weights(self, study: str, number: int) -> dict[str, tuple[bytes, str]]:
        """The files that a trial's `finish` has left for other hosts: content and SHA-256."""
        file = WEIGHTS.c
        query = sa.select(file.file, file.content, file.sha256)
        rows = self.rows(query.where(file.study == study, file.number == number))
        return {row.file: (row.content, row.sha256) for row in rows}

    def release(self, owner: str, *, blameless: bool) -> bool:
        """Gives up whatever `owner` holds, so that it can be claimed at once; False: nothing that
        it had begun to work on.

        A death that may be the trial's own doing counts as a strike against it; an end that was
        asked for (`blameless`) does not.
        """
        held = (TRIALS.c.owner == owner) & (TRIALS.c.state == State.RUNNING)
        given = held & (TRIALS.c.claim == GIVEN)
        step = GIVE_BACK if blameless else STRIKE

        def give_back(db: sa.Connection) -> bool:
            for these, how in ((given, GIVE_BACK), (held, step)):
                change = sa.update(TRIALS).where(these)
                free = change.values(owner=None, expires=0, **how.change(TRIALS.c))
                found = db.execute(free).rowcount > 0
            return found

        return self.write(give_back)

    def owners(self, study: str | None = None) -> list[str]:
        """Everyone who holds a trial, of one study or of any."""
        query = sa.select(TRIALS.c.owner).where(
            TRIALS.c.state == State.RUNNING, TRIALS.c.owner.is_not(None)
        )
        if study:
            query = query.where(TRIALS.c.study == study)
        return sorted({row.owner for row in self.rows(query)})

    def parts(self, study: str, among: Collection[int] | None = None) -> list[Part]:
        """The parts of all trials or of these, in order; without those that are to be planned
        anew."""
        row = TRIALS.c
        query = sa.select(TRIALS).where(row.study == study, row.starts.is_not(None))
        if among is not None:
            query = query.where(row.trial.in_(list(among)))
        return [part_of(row) for row in self.rows(query.order_by(row.number))]

    def trials(self, study: str, among: Collection[int] | None = None) -> list[Trial]:
        """The trials (or these) in order; each is what its last part has come to."""
        return trials_of(self.parts(study, among))

    def forget(self, study: str) -> None:
        """Deletes a study and its trials, unless somebody holds one of them."""
        held = sa.select(TRIALS.c.number).where(
            TRIALS.c.study == study, TRIALS.c.state == State.RUNNING, TRIALS.c.owner.is_not(None)
        )

        def delete(db: sa.Connection) -> None:
            if db.execute(held).first() is None:
                for table in (WEIGHTS, ORIGINS, TRIALS):
                    db.execute(sa.delete(table).where(table.c.study == study))
                db.execute(sa.delete(STUDIES).where(STUDIES.c.id == study))

        self.write(delete)

    def _update(
        self, lease: Lease, *, files: dict[str, bytes] | None = None, **values: Any
    ) -> None:
        this = (TRIALS.c.study == lease.study) & (TRIALS.c.number == lease.number)
        held = (TRIALS.c.token == lease.token) & (TRIALS.c.state == State.RUNNING)

        def update(db: sa.Connection) -> None:
            now = clock(db)
            ended = {"finished_ms": milliseconds(now)} if "state" in values else {}
            changed = {"expires": now + LEASE_SECONDS, **ended, **values}
            done = db.execute(sa.update(TRIALS).where(this, held).values(**changed))
            if self._seen:
                self._seen(db, now)
            if done.rowcount == 1:
                leave_files(db, lease, files or {})
            elif not ended or not is_recorded(db, this, lease.token, values):
                raise LeaseLost(f"trial {lease.number} of {lease.study} has another owner")

        self.write(update)


def storage_url(machine: Machine, paths: Paths) -> str:
    """Where the ledger is: machine.yaml's URL or the SQLite file under runs/state."""
    if machine.storage:
        return machine.storage
    paths.ledger.parent.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{quote(str(paths.ledger))}"  # `?`, `#` and `%` mean something in a URL


def _parts(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The specification as its study's identity has it, and what the identity leaves out."""
    spec = json.loads(text)
    return spec, spec.pop(LEFT_OUT, {})
