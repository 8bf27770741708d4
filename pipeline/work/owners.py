"""Who holds trials: the names of processes, and what becomes of what the dead held."""

from __future__ import annotations

import hashlib
import socket
import time
from functools import cache
from pathlib import Path

import psutil

from pipeline.study.identity import Study
from pipeline.study.storage.ledger import Ledger

PROC = Path("/proc")  # where there is none, psutil knows less exactly
MACHINE_ID = Path("/etc/machine-id")
OUTERMOST = "pid:[4026531836]"  # Linux' own process namespace, of no container
ORPHAN_SECONDS = 10.0
POLL_SECONDS = 0.25


def owner_name(pid: int) -> str:
    """Who holds a lease: HOST@PLACE/PID/START.

    Containers and cloned machines share host names and process numbers, so PLACE says where these
    are of one kind; a process number alone may be reused, so START tells the process from another.
    """
    return f"{socket.gethostname()}@{place()}/{pid}/{process_start(pid)}"


def shown(owner: str) -> str:
    """A holder, for people."""
    host, _, pid, _ = _parts(owner)
    return f"process {pid} on {host}"


@cache
def place() -> str:
    """MACHINE.BOOT.NAMESPACE: what makes process numbers comparable, as short hashes."""
    machine = MACHINE_ID.read_text() if MACHINE_ID.exists() else socket.gethostname()
    boot, space = PROC / "sys/kernel/random/boot_id", PROC / "self/ns/pid"
    booted = boot.read_text() if boot.exists() else str(round(psutil.boot_time()))
    inside = str(space.readlink()) if space.is_symlink() else OUTERMOST
    return ".".join(_short(part.strip()) for part in (machine, booted, inside))


def process_start(pid: int) -> str:
    """The start time of a living process; empty if there is none.

    In clock ticks since the boot on Linux: psutil's seconds move when the clock is set.
    """
    if not (PROC / "self/stat").exists():
        return _start_elsewhere(pid)
    try:
        fields = (PROC / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return ""
    return fields[19] if fields[0] not in "ZX" else ""  # dead, though nobody has waited for it


def _start_elsewhere(pid: int) -> str:
    try:
        process = psutil.Process(pid)
        dead = process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        return "" if dead else str(round(process.create_time() * 100))
    except psutil.NoSuchProcess:
        return ""


def await_orphans(ledger: Ledger, studies: list[Study]) -> None:
    """Waits for workers of these studies on this host: their parent, who held our lock, is dead."""
    deadline = time.monotonic() + ORPHAN_SECONDS
    while time.monotonic() < deadline:
        owners = [owner for study in studies for owner in ledger.owners(study.id)]
        if not any(is_here(owner) and not is_gone(owner) for owner in owners):
            return
        time.sleep(POLL_SECONDS)


def release_the_dead(ledger: Ledger) -> None:
    """What workers of this host held that no longer live, as after a power cut: nobody's fault."""
    for owner in ledger.owners():
        if is_gone(owner):
            ledger.release(owner, blameless=True)


def bury(pid: int, killed: bool, ledger: Ledger) -> bool:
    """Releases what a dead worker held; True if that trial gets a strike for having killed it."""
    prefix = owner_name(pid).rsplit("/", 1)[0] + "/"
    owner = next((owner for owner in ledger.owners() if owner.startswith(prefix)), prefix)
    return ledger.release(owner, blameless=not killed) and killed


def is_here(owner: str) -> bool:
    """Whether a holder is, or was, a process whose life and death can be seen from here.

    One of an earlier boot counts, as after a power cut, but only outside of containers: there, a
    name and a machine id may be those of an image. A name without place is an older code's, and
    its lease runs out.
    """
    host, where, _, _ = _parts(owner)
    if where == place():
        return True
    earlier = _without_boot(where) == _without_boot(place())
    outside = place().endswith(_short(OUTERMOST))
    return earlier and outside and host == socket.gethostname()


def is_gone(owner: str) -> bool:
    """Whether a holder that `is_here` no longer lives."""
    _, where, pid, start = _parts(owner)
    return is_here(owner) and (where != place() or process_start(pid) != start)


def _parts(owner: str) -> tuple[str, str, int, str]:
    """HOST, PLACE (empty in an older code's name), PID and START; a host's name may be anything.
    Of what is no such name only the host is known."""
    name, pid, start = [*owner.rsplit("/", 2), "0", ""][:3]
    host, at, where = name.rpartition("@")
    return (host, where, int(pid), start) if at else (name, "", int(pid), start)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _without_boot(where: str) -> tuple[str, str]:
    machine, _, rest = where.partition(".")
    return machine, rest.partition(".")[2]
