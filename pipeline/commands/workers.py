"""`cancel`, `pause`, `resume`: what is wished of a sweep's workers; and the lines of `status`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import UserError
from pipeline.paths import Paths
from pipeline.results.states import Kind
from pipeline.settings.machine import Machine
from pipeline.study.storage.ledger import LEASE_SECONDS, Ledger
from pipeline.study.storage.readonly import working
from pipeline.study.storage.workers import CANCEL, PAUSE, Present, jobs, wish, wished, workers
from pipeline.work.owners import is_gone, shown
from pipeline.work.progress import clock_time
from pipeline.work.slurm import cancel_waiting

FORGOTTEN_SECONDS = 10 * LEASE_SECONDS  # who was not heard of for so long is not shown
SAID = {
    CANCEL: "{} told to leave: `python -m pipeline search {}` goes on",
    PAUSE: "{} told to pause: `python -m pipeline resume {}` goes on",
    None: "{} told to go on, as those that come to {}",
}


def tell(root: Path, machine: Machine, name: str, what: str | None) -> str:
    """Wishes something of all workers of a sweep, on whatever hosts; says how many there are.

    Raises UserError for a sweep without a study.
    """
    with working(machine, Paths(root, name)) as ledger:
        if not any(ledger.studies(name, kind) for kind in Kind):
            raise UserError(f"the ledger has no study of {name}: see `python -m pipeline status`")
        wish(ledger, name, what)
        if what == CANCEL and machine.slurm:
            cancel_waiting(jobs(ledger, name), ledger)
        there = _there(ledger, name)
    count = f"{name}: {len(there)} worker{'s' * (len(there) != 1)}"
    return SAID[what].format(count, name)


def workers_lines(ledger: Ledger, name: str) -> Iterator[str]:
    """Who works for a sweep, or waits for work; nothing if nobody is there."""
    there, now = _there(ledger, name), ledger.now()
    wishes = {CANCEL: ": cancelled", PAUSE: ": paused", None: ""}[wished(ledger, name)]
    if not there and not wishes:
        return
    yield f"workers of {name}: {len(there)}{wishes}"
    held = {
        part.owner: f"at trial {part.trial} of {study}"
        for kind in Kind
        for study in ledger.studies(name, kind)
        for part in ledger.parts(study)
        if part.owner
    }
    for each in there:
        slurm = f", Slurm job {each.slurm}" if each.slurm else ""
        since = clock_time(max(0.0, now - each.since_ms / 1000))
        told = ", told to leave" if each.wish == CANCEL else ""
        seen = f"seen {max(0.0, now - each.seen):.0f} s ago"
        at = held.get(each.owner, "without work")
        yield f"  {shown(each.owner)}{slurm}: {at}, for {since}, {seen}{told}"


def _there(ledger: Ledger, name: str) -> list[Present]:
    """Those that have not left and are not known to be dead."""
    now = ledger.now()
    return [
        each
        for each in workers(ledger, name)
        if each.code is None and now - each.seen < FORGOTTEN_SECONDS and not is_gone(each.owner)
    ]
