"""One stage within a command, and what a command says on the way."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from pipeline.errors import Interrupted
from pipeline.files import check_folder
from pipeline.paths import Paths
from pipeline.settings.machine import Machine
from pipeline.settings.snapshot import check_unchanged
from pipeline.settings.space import Space


def run_stage(stage: str, space: Space, machine: Machine, paths: Paths, **more: Any) -> None:
    """Runs one stage; `more` is its own. Raises Interrupted on Ctrl-C; OutOfTime at
    `machine.until`, then the output of before stands."""
    from pipeline.work.budget_by_deadline import timed
    from pipeline.work.stopping import ends_at

    check_folder(paths.stage(stage))  # before it says or does anything
    with interruptible(stage, space):
        with ends_at(machine.until, f"{stage} {space.name}"), timed(stage, paths):
            import_module(f"pipeline.stages.{stage}").run(space, machine, paths, **more)
        check_unchanged(stage, space, paths)


@contextmanager
def interruptible(what: str, space: Space) -> Iterator[None]:
    """Raises Interrupted on Ctrl-C, which Typer would let go without a word."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(
            f"{what} {space.name}: interrupted: the same command starts it again"
        ) from None


def say(line: str) -> None:
    """Tells whoever waits for the command what it decides on the way."""
    print(line, file=sys.stderr, flush=True)
