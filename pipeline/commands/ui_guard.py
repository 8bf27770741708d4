"""A foreign command that ends with the process that started it, however that one dies.

    python -m pipeline.commands.ui_guard COMMAND …

Standard input is a pipe that the starter holds and never writes to: the system closes it at the
starter's death. All of the command's processes then end, which share a session of their own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

GRACE_SECONDS = 5.0  # between SIGTERM and SIGKILL


@contextmanager
def guarded(argv: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a command that ends with the block, or with this process."""
    command = [sys.executable, "-m", "pipeline.commands.ui_guard", *argv]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, env=environment, start_new_session=True
    ) as process:
        assert process.stdin is not None
        try:
            yield process
        finally:
            process.stdin.close()
            process.wait()


def main() -> int:
    """Runs the command; its exit code, unless standard input ends first."""
    signal.signal(signal.SIGTERM, lambda *_: None)  # ours too is the group that gets it
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    threading.Thread(target=_end_with_input, args=(process,), daemon=True).start()
    return process.wait()


def _end_with_input(process: subprocess.Popen[bytes]) -> None:
    os.read(0, 1)
    os.killpg(0, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
