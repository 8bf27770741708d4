"""Who holds trials: the names of processes, and what becomes of what the dead held."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from pipeline.study.identity import Study
from pipeline.study.ledger import Ledger

ORPHAN_SECONDS = 10.0
POLL_SECONDS = 0.25


def owner_name(pid: int) -> str:
    """Who holds a lease: host, process and its start time (a pid alone may be reused)."""
    return f"{socket.gethostname()}/{pid}/{process_start(pid)}"


def process_start(pid: int) -> str:
    """The start time of a living process in clock ticks; empty if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return ""
    return fields[19] if fields[0] not in "ZX" else ""  # dead, though nobody has waited for it


def await_orphans(ledger: Ledger, studies: list[Study]) -> None:
    """Waits for workers of these studies on this host: their parent, who held our lock, is dead."""
    deadline = time.monotonic() + ORPHAN_SECONDS
    while time.monotonic() < deadline:
        owners = [owner for study in studies for owner in ledger.owners(study.id)]
        if not any(is_here(owner) and not is_dead(owner) for owner in owners):
            return
        time.sleep(POLL_SECONDS)


def release_the_dead(ledger: Ledger) -> None:
    """What workers of this host held that no longer live, as after a power cut: nobody's fault."""
    for owner in ledger.owners():
        if is_here(owner) and is_dead(owner):
            ledger.release(owner, blameless=True)


def bury(pid: int, killed: bool, ledger: Ledger) -> bool:
    """Releases what a dead worker held; True if that trial gets a strike for having killed it."""
    prefix = owner_name(pid).rsplit("/", 1)[0] + "/"
    owner = next((owner for owner in ledger.owners() if owner.startswith(prefix)), prefix)
    return ledger.release(owner, blameless=not killed) and killed


def is_here(owner: str) -> bool:
    """Whether a holder is, or was, a process of this host."""
    return owner.split("/")[0] == socket.gethostname()


def is_dead(owner: str) -> bool:
    """Whether a holder of this host no longer lives."""
    _, pid, start = owner.split("/")
    return process_start(int(pid)) != start
