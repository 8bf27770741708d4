"""Who holds a lock that others wait for, in words that say what to do about it."""

from __future__ import annotations

from pathlib import Path

import psutil
import sqlalchemy as sa

LOCKS = Path("/proc/locks")
WAL_WRITE, WAL_RECOVER = 120, 122  # bytes of SQLite's shared memory that its writers lock


def sqlite_blocker(database: str) -> str:
    """The process that writes to a SQLite file; empty where the system does not tell.

    Read from /proc/locks: to open the file here and close it would drop our own locks on it.
    """
    pids = [pid for pid in _lock_holders(database) if pid != psutil.Process().pid]
    if not pids or not psutil.pid_exists(pids[0]):
        return ""
    process = psutil.Process(pids[0])
    try:
        stopped = process.status() == psutil.STATUS_STOPPED
        name = process.name()
    except psutil.Error:
        return ""
    if not stopped:
        return f"process {process.pid} ({name}) holds its lock: wait for it or end it"
    return (
        f"process {process.pid} ({name}), which is stopped, holds its lock: let it go on (kill"
        f" -CONT {process.pid}) or end it (kill -KILL {process.pid})"
    )


def _lock_holders(database: str) -> list[int]:
    """Who holds locks of a writer: 1: POSIX ADVISORY WRITE 4711 08:01:1234 120 120."""
    if not LOCKS.exists():
        return []
    shared = Path(f"{database}-shm")
    inodes = {str(path.stat().st_ino): path for path in (Path(database), shared) if path.exists()}
    found = []
    for line in LOCKS.read_text().splitlines():
        fields = [field for field in line.split() if field != "->"]
        kind, pid, inode, start = fields[3], int(fields[4]), fields[5].split(":")[-1], fields[6]
        if kind != "WRITE" or inode not in inodes:
            continue
        if inodes[inode] != shared or WAL_WRITE <= int(start) <= WAL_RECOVER:
            found.append(pid)
    return found


def postgresql_blocker(db: sa.Connection) -> str:
    """The client with the oldest transaction; empty if there is none."""
    oldest = db.execute(
        sa.text(
            "SELECT application_name AS name, state, host(client_addr) AS address,"
            " extract(epoch FROM clock_timestamp() - xact_start)::int AS seconds"
            " FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND xact_start IS NOT NULL ORDER BY xact_start LIMIT 1"
        )
    ).first()
    if oldest is None:
        return ""
    return (
        f"{oldest.name or 'a client'} at {oldest.address or 'the server itself'} is in a"
        f" transaction for {oldest.seconds} s ({oldest.state}): see to that process"
    )
