"""The ways in which a command ends early without being at fault."""

import errno

# Of an OSError: one line too, and exit code 2.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
NOT_ALLOWED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)


class UserError(Exception):
    """The user's input is wrong: one line that names the rule, the value and the remedy.

    The command line prints it without a traceback and exits with 2.
    """


class Interrupted(Exception):
    """Stopped by a signal or a deadline; all work is kept. The message says how to continue.

    The command line prints it and exits with 130.
    """
