"""PostgreSQL's driver, which waits without end for a server that says nothing, with an end."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import psycopg

SILENCE_SECONDS = 30.0  # of a server that is asked; longer than its own timeout for a lock


class Connection(psycopg.Connection[Any]):
    """A connection that breaks when nothing goes through it for SILENCE_SECONDS within a statement.

    A server that is frozen, or whose disk hangs, keeps its connections open, and the kernel goes on
    to acknowledge what is sent: no timeout of TCP or of the server itself ends that.
    """

    def wait(self, gen: Any, *arguments: Any, **options: Any) -> Any:
        """As in psycopg. Raises OperationalError, with the connection closed, after the silence."""
        return super().wait(self._listening(gen), *arguments, **options)

    def _listening(self, asked: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """The driver's generator: it yields what it waits for, and is sent what is ready, if
        anything is, every tenth of a second."""
        heard = time.monotonic()
        try:
            wish = next(asked)
            while True:
                ready = yield wish
                if ready:
                    heard = time.monotonic()
                elif time.monotonic() - heard > SILENCE_SECONDS:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(
                        f"the server has said nothing for {SILENCE_SECONDS:.0f} s"
                    )
                wish = asked.send(ready)
        except StopIteration as end:
            return end.value
