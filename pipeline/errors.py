"""The ways in which a command ends early without being at fault."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import NoReturn

# Of an OSError: one line too, and exit code 2.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
NOT_ALLOWED = (
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ELOOP,
    errno.ENAMETOOLONG,
)
BROKEN = (errno.EIO, errno.ESTALE)  # a device or a mount, which may be back at the next try


class UserError(Exception):
    """The user's input is wrong: one line that names the rule, the value and the remedy.

    The command line prints it without a traceback and exits with 2.
    """


class Interrupted(Exception):
    """Stopped by a signal or a deadline; all work is kept. The message says how to continue.

    The command line prints it and exits with 130.
    """


class OutOfTime(Interrupted):
    """Stopped by a deadline, and by nothing else."""


class Stopped(KeyboardInterrupt):
    """A signal or an alarm in the midst of anything; no code takes it for its own failure.

    Where KeyboardInterrupt itself is raised in code that Python runs from a string, as named tuples
    and data classes are made, `python -m` ends by SIGINT, whatever exit code it is given.
    """


def stop_here(*_: object) -> NoReturn:
    """Raises Stopped; it may be the handler of a signal."""
    raise Stopped


def of_the_disk(error: OSError) -> str | None:
    """What an OSError of full, forbidden or missing places says in one line; None: it is a bug."""
    where = error.filename2 or error.filename or "the disk of runs/"  # 2: of a copy, the target
    if error.errno in NO_SPACE:
        return f"no space left for {where}: free some, then the same command goes on"
    if error.errno == errno.EEXIST and Path(where).is_symlink():
        return f"{where} is a link that leads nowhere: mount its target or drop it"
    if error.errno in NOT_ALLOWED + BROKEN:
        return f"{where}: {error.strerror}: mend that, then the same command goes on"
    return None
