"""Command line: runs the verb that is given; exit codes and last messages of all of them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable
from typing import Any

import typer

from pipeline.commands.verbs import app
from pipeline.errors import Interrupted, UserError, of_the_disk, stop_here
from pipeline.paths import is_text

READER_LEFT = 128 + 13  # SIGPIPE
STOPPED = (typer.Abort, KeyboardInterrupt)  # end of input, or Ctrl-C, in place of an answer
# Of all that may be wrong with a command line Typer exports one kind alone.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def main() -> None:
    """The console script. Exit codes: 0 done, 1 a bug, 2 input or disk, 75 skipped, 130
    interrupted, 141 the reader of its output has left (`| head`), as a shell counts it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, stop_here)
    try:
        if foreign := [word for word in sys.argv[1:] if not is_text(word)]:
            raise UserError(f"what is typed must be UTF-8, but got {foreign[0]!r:.80}: rename it")
        code = _say(app(standalone_mode=False))
        sys.stdout.flush()  # else it fails when Python ends, with a code of its own
        raise SystemExit(code)
    except BrokenPipeError:
        os._exit(READER_LEFT)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # which Typer makes a 1 of
            os._exit(READER_LEFT)
        raise
    except UsageError as error:
        _leave(_usage(error), 2)
    except STOPPED:
        _leave("interrupted: nothing is changed", 130)
    except UserError as error:
        _leave(f"error: {error}", 2)
    except OSError as error:
        if (said := of_the_disk(error)) is None:
            raise
        _leave(f"error: {said}", 2)
    except Interrupted as error:
        _leave(str(error), 130)


def _say(what: int | str | Iterable[str] | None) -> int:
    """Prints what a command has to say, as it comes; its exit code."""
    if isinstance(what, int):
        return what
    for text in [what] if isinstance(what, str) else what or ():
        if text:
            typer.echo(text)
    return 0


def _usage(error: Any) -> str:
    """What is wrong with a command line, in one line; the help, if there is nothing on it."""
    message = error.format_message()
    if not sys.argv[1:]:
        return str(message)
    verb = error.ctx.info_name if error.ctx and error.ctx.parent else ""
    said = " ".join(message.split()).rstrip(".")
    prefix, verb = (f"{verb}: ", f" {verb}") if verb else ("", "")
    return f"error: {prefix}{said}: see `python -m pipeline{verb} --help`"


def _leave(message: str, code: int) -> None:
    try:
        print(message, file=sys.stderr, flush=True)
    except OSError:  # nobody reads it any more: a closed terminal, a log on a full disk
        os._exit(code)  # else a last flush would fail as well, and the code be another
    raise SystemExit(code) from None


if __name__ == "__main__":
    main()
