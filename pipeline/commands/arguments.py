"""What several verbs are given: a sweep, the checkout and its machine, a deadline, GPUs."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import UserError
from pipeline.paths import is_text

if TYPE_CHECKING:
    from pipeline.settings.machine import Machine

Name = Annotated[str, typer.Argument(help="a sweep: the NAME of search_spaces/NAME.yaml")]
NameOrAll = Annotated[str | None, typer.Argument(help="a sweep; default: all")]
For = Annotated[str | None, typer.Option("--for", help="be done after so long: 90m, 2h, 1h30m")]
Until = Annotated[str | None, typer.Option(help="be done at 07:00 or 2030-12-31T07:00")]


def checkout() -> Path:
    """The checkout: the current folder. Raises UserError in any other folder.

    Messages name files as seen from the checkout, so a folder within it will not do.
    """
    here = Path.cwd()
    if not is_text(str(here)):
        raise UserError(f"{here}: the name of a checkout's folder must be UTF-8: rename it")
    if (here / "search_spaces").is_dir():
        return here
    for folder in here.parents:
        if (folder / "search_spaces").is_dir():
            raise UserError(f"{here} is a folder of the checkout: `cd {quote(str(folder))}` first")
    raise UserError(f"{here} is no checkout, it has no search_spaces/: give the command in one")


def here() -> tuple[Path, Machine]:
    """The checkout, and the machine that it is on."""
    from pipeline.settings.machine import load_machine

    root = checkout()
    return root, load_machine(root)


def with_deadline(machine: Machine, duration: str | None, until: str | None) -> Machine:
    """machine.yaml with the command line's deadline over its own. Raises UserError."""
    from pipeline.settings.deadline import deadline_after, deadline_at

    if duration is not None and until is not None:
        raise UserError("--for and --until exclude each other: give one of them")
    try:
        if duration is not None:
            return machine.model_copy(update={"until": deadline_after(duration)})
        if until is not None:
            return machine.model_copy(update={"until": deadline_at(until)})
    except ValueError as error:
        raise UserError(f"--{'until' if duration is None else 'for'} {error}") from None
    return machine


def with_gpus(machine: Machine, which: str) -> Machine:
    """machine.yaml with `--gpus` in place of its device. Raises UserError."""
    from pipeline.work.cards import IDLE, cards

    if which != IDLE:
        raise UserError(f"--gpus must be {IDLE}, but got {which!r}: `device` names others")
    if machine.slurm:
        raise UserError("--gpus idle is for boxes without Slurm, which grants GPUs: slurm.gres")
    cards()
    return machine.model_copy(update={"device": IDLE})
