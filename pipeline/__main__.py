"""Command line: parses and calls. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import NO_SPACE, NOT_ALLOWED, Interrupted, UserError
from pipeline.stages import STAGES

if TYPE_CHECKING:
    from pipeline.config import Space
    from pipeline.machine import Machine
    from pipeline.paths import Paths

# What a stage reads of earlier stages; the first file of each tells that the stage has run.
NEEDS = {
    "prepare": (),
    "search": ("prepare/manifest.json",),
    "retrain": ("prepare/manifest.json", "search/best.json"),
    "evaluate": ("prepare/manifest.json", "retrain/winner.json"),
    "render": (
        "prepare/manifest.json",
        "search/best.json",
        "retrain/winner.json",
        "evaluate/metrics.json",
    ),
}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Hyperparameter search for variational autoencoders: stages, checks and helpers.",
)
Name = Annotated[str, typer.Argument(help="a sweep: the NAME of search_spaces/NAME.yaml")]
For = Annotated[str | None, typer.Option("--for", help="stop after so long: 90m, 2h, 1h30m")]
Until = Annotated[str | None, typer.Option(help="stop at 07:00 or 2030-12-31T07:00")]


def _stage_command(stage: str, summary: str) -> None:
    def command(name: Name) -> None:
        _run_stages((stage,), name)

    app.command(stage, help=summary)(command)


def _training_command(verb: str, stages: tuple[str, ...], summary: str) -> None:
    def command(name: Name, duration: For = None, until: Until = None) -> None:
        _run_stages(stages, name, duration, until)

    app.command(verb, help=summary)(command)


_stage_command("prepare", "Fetch, verify and split the data.")
_training_command("search", ("search",), "Run the study of the search space.")
_training_command(
    "retrain", ("retrain",), "Retrain the best candidates on fresh seeds; choose the winner."
)
_stage_command("evaluate", "Measure the winner on the test set.")
_stage_command("render", "Draw the figures and the report.")
_training_command("run", STAGES, "All five stages in order, without DVC: a quick look.")


@app.command()
def check(name: Name) -> None:
    """Validate a search space and print what would be searched."""
    from pipeline.config import load_space
    from pipeline.describe import describe
    from pipeline.machine import load_machine

    space = load_space(Path.cwd(), name)
    load_machine(Path.cwd())
    typer.echo(describe(space))


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(help="a sweep; default: all")] = None,
) -> None:
    """What the studies have done, who works on what, the time left, the space on disk."""
    from pipeline.machine import load_machine
    from pipeline.status import status_text

    typer.echo(status_text(Path.cwd(), load_machine(Path.cwd()), name))


@app.command()
def reproduce(
    name: Name, number: Annotated[int, typer.Argument(help="number of a search trial")]
) -> None:
    """Train one trial again, alone, and say whether the record is identical."""
    from pipeline.machine import load_machine
    from pipeline.reproduce import reproduce_trial

    typer.echo(reproduce_trial(Path.cwd(), load_machine(Path.cwd()), name, number))


@app.command()
def sync(
    name: Annotated[str | None, typer.Argument(help="a sweep; default: all")] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="send everything again; undo deletions in MLflow")
    ] = False,
) -> None:
    """Bring MLflow up to date with the ledger and the outputs."""
    from pipeline.machine import load_machine
    from pipeline.sync import sync_all

    for line in sync_all(Path.cwd(), load_machine(Path.cwd()), name, rebuild=rebuild):
        typer.echo(line)


@app.command()
def where(run_id: Annotated[str, typer.Argument(help="an MLflow run id")]) -> None:
    """Where an MLflow run comes from, and the commands that recreate it."""
    from pipeline.machine import load_machine
    from pipeline.where import where_text

    typer.echo(where_text(Path.cwd(), load_machine(Path.cwd()), run_id))


@app.command()
def ui(
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="port on the loopback interface")
    ] = 5000,
) -> None:
    """Open MLflow on the runs of this checkout."""
    from pipeline.machine import load_machine
    from pipeline.ui import serve_ui

    raise typer.Exit(serve_ui(Path.cwd(), load_machine(Path.cwd()), port))


@app.command(hidden=True)
def worker(job: Path, slot: int) -> None:
    """Work on a job file (started by search and retrain)."""
    from pipeline.worker import main as work

    raise typer.Exit(work(job, slot))


@app.command(hidden=True)
def mirror(name: str) -> None:
    """Follow a sweep in MLflow until standard input closes (started by search and retrain)."""
    from pipeline.machine import load_machine
    from pipeline.sync import follow

    follow(Path.cwd(), load_machine(Path.cwd()), name)


def _run_stages(
    stages: tuple[str, ...], name: str, duration: str | None = None, until: str | None = None
) -> None:
    from pipeline.config import load_space
    from pipeline.machine import load_machine
    from pipeline.paths import Paths

    root = Path.cwd()
    space, paths = load_space(root, name), Paths(root, name)
    machine = _with_deadline(load_machine(root), duration, until)
    if stages == ("prepare",):
        _run_stage("prepare", space, machine, paths)
        return
    _check_inputs(stages[0], paths.runs / name)
    from pipeline.sync import following

    before = STAGES[max(STAGES.index(stages[0]) - 1, 0)]
    with following(space, machine, paths, before) as ended:
        for stage in stages:
            _run_stage(stage, space, machine, paths)
            ended(stage)


def _run_stage(stage: str, space: Space, machine: Machine, paths: Paths) -> None:
    _check_inputs(stage, paths.runs / space.name)
    try:
        import_module(f"pipeline.stages.{stage}").run(space, machine, paths)
    except KeyboardInterrupt:  # which Typer would let go without a word
        raise Interrupted(
            f"{stage} {space.name}: interrupted: the same command starts it again"
        ) from None


def _with_deadline(machine: Machine, duration: str | None, until: str | None) -> Machine:
    """machine.yaml with the command line's deadline over its own. Raises UserError."""
    from pipeline.deadline import deadline_after, deadline_at

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


def _check_inputs(stage: str, runs: Path) -> None:
    for needed in NEEDS[stage]:
        if not (runs / needed).exists():
            earlier = needed.split("/")[0]
            raise UserError(
                f"{stage} {runs.name}: runs/{runs.name}/{needed} is missing: run"
                f" `python -m pipeline {earlier} {runs.name}` first"
            )


def main() -> None:
    """The console script. Exit codes: 0 done, 1 a bug, 2 input or disk, 130 interrupted."""
    try:
        app()
    except UserError as error:
        _leave(f"error: {error}", 2)
    except OSError as error:
        where = error.filename2 or error.filename or "the disk of runs/"  # 2: of a copy, the target
        if error.errno in NO_SPACE:
            _leave(f"error: no space left for {where}: free some, then the same command goes on", 2)
        if error.errno in NOT_ALLOWED:
            _leave(f"error: {where}: {error.strerror}: mend that, then the same command goes on", 2)
        raise
    except Interrupted as error:
        _leave(str(error), 130)


def _leave(message: str, code: int) -> None:
    try:
        print(message, file=sys.stderr, flush=True)
    except OSError:  # nobody reads it any more: a closed terminal, a log on a full disk
        os._exit(code)  # else a last flush would fail as well, and the code be another
    raise SystemExit(code) from None


if __name__ == "__main__":
    main()
