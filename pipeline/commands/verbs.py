"""The verbs of the command line, with what each is given and what it prints.

Nothing heavy is imported before a verb needs it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.arguments import (
    For,
    Name,
    NameOrAll,
    Until,
    checkout,
    here,
    with_deadline,
    with_gpus,
)
from pipeline.errors import UserError
from pipeline.paths import STAGES, Paths

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Hyperparameter search for variational autoencoders: stages, checks and helpers.",
)


def _run_stages(
    stages: tuple[str, ...], name: str, duration: str | None = None, until: str | None = None
) -> str:
    from pipeline.commands.run import run_stages

    root, machine = here()
    return run_stages(stages, root, name, with_deadline(machine, duration, until))


def _stage_command(stage: str, summary: str) -> None:
    def command(name: Name) -> str:
        return _run_stages((stage,), name)

    app.command(stage, help=summary)(command)


def _training_command(verb: str, stages: tuple[str, ...], summary: str) -> None:
    def command(name: Name, duration: For = None, until: Until = None) -> str:
        return _run_stages(stages, name, duration, until)

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
def sweep(
    names: Annotated[list[str], typer.Argument(help="sweeps: NAMEs of search_spaces/NAME.yaml")],
    duration: For = None,
    until: Until = None,
    add: Annotated[
        int | None, typer.Option(min=1, help="so many trials more than there are")
    ] = None,
    gpus: Annotated[
        str | None, typer.Option(help="`idle`: on GPUs that nobody computes on")
    ] = None,
    then: Annotated[
        str | None, typer.Option(help="a command for the end, when the summary is on disk")
    ] = None,
) -> int:
    """Take sweeps to an answer unattended, night after night; see docs/nights.md."""
    from pipeline.commands.sweep import sweep as work

    root, machine = here()
    machine = with_deadline(machine, duration, until)
    if gpus is not None:
        machine = with_gpus(machine, gpus)
    return work(root, machine, names, add, then)


@app.command()
def nights() -> Iterator[str]:
    """What the nights have done, as a table; draws runs/nights/nights.png."""
    from pipeline.commands.nights import draw, nights_text

    yield nights_text(root := checkout())
    if file := draw(root):
        yield f"figure: {file}"


@app.command()
def check(name: Name) -> Iterator[str]:
    """Validate a search space; print what would be searched and what it would cost."""
    from pipeline.commands.check import check_texts

    return check_texts(checkout(), name)


@app.command()
def new(
    name: Name,
    images: Annotated[str, typer.Option(help="a folder of images")],
    duration: Annotated[
        str, typer.Option("--for", help="the time it may take on this machine: 90m, 2h, 1h30m")
    ] = "1h",
    family: Annotated[
        str | None, typer.Option(help="a family of your own: FILE.py:CLASS (docs/model.md)")
    ] = None,
) -> str:
    """Look at a folder of images and write a search space for it."""
    from pipeline.commands.new import new_space
    from pipeline.settings.deadline import deadline_after, now

    try:
        seconds = (deadline_after(duration) - now()).total_seconds()
    except ValueError as error:
        raise UserError(f"new: --for {error}") from None
    file = new_space(*here(), name, images, seconds, family)
    return f"{file}: `python -m pipeline check {name}`, then `python -m pipeline run {name}`"


@app.command()
def status(name: NameOrAll = None) -> Iterator[str]:
    """What the studies have done, who works on what, the time left, the space on disk."""
    from pipeline.commands.status import status_text

    wrong: list[str] = []
    yield status_text(*here(), name, wrong)
    if wrong:
        more = f" (and {len(wrong) - 1} more sweeps are not in order)" if wrong[1:] else ""
        raise UserError(wrong[0] + more)


@app.command()
def doctor() -> Iterator[str]:
    """Examine environment, device, storage, tracker, Slurm and disk; say what to mend."""
    from pipeline.commands.doctor import doctor_lines

    return doctor_lines(*here())


@app.command("list")
def list_() -> str:
    """All sweeps of this checkout: data, state, best, winner, size."""
    from pipeline.commands.list import list_text

    return list_text(*here())


@app.command()
def clean(
    name: NameOrAll = None,
    studies: Annotated[
        bool, typer.Option("--studies", help="delete the ledger's rows of earlier forks, too")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
) -> Iterator[str]:
    """Say which files nothing needs any more, ask, and delete them."""
    from pipeline.commands.clean import find_rubbish, remove

    root, machine = here()
    rubbish = find_rubbish(root, machine, name)
    if not rubbish.places and not (studies and rubbish.studies):
        yield "nothing to clean"
        return
    yield rubbish.text(root, studies)
    if not yes and not sys.stdin.isatty():
        raise UserError("clean: nothing is deleted without a terminal to ask on: add --yes")
    if yes or typer.confirm("delete these?"):
        remove(rubbish, root, machine, with_rows=studies)
        yield "deleted"


@app.command()
def archive(
    name: Name,
    to: Annotated[Path | None, typer.Option(help="the file; default: NAME.tar here")] = None,
) -> str:
    """Write a sweep's space, outputs, trials and versions into one tar file."""
    from pipeline.commands.archive import archive as write

    return str(write(*here(), name, to or Path(f"{name}.tar")))


@app.command()
def export(
    name: Name,
    optuna: Annotated[str, typer.Option(help="URL of a storage, such as sqlite:///optuna.db")],
) -> str:
    """Write the search as a study of Optuna: its dashboard and plots read it."""
    from pipeline.commands.export import export_text

    return export_text(*here(), name, optuna)


@app.command()
def keep(
    name: Name,
    study: Annotated[
        list[str] | None,
        typer.Option(help="a study of the ledger, several times; default: all that are alike"),
    ] = None,
) -> list[str]:
    """Write the finished trials of a sweep's searches into a table that spaces can begin with."""
    from pipeline.commands.keep import keep as write

    return write(*here(), name, study or [])


@app.command()
def compare(
    names: Annotated[
        list[str], typer.Argument(help="two sweeps or more; the first is compared with")
    ],
) -> str:
    """Sweeps side by side: figures, what differs, and whether the winners can be told apart."""
    from pipeline.api import Checkout

    return str(Checkout(checkout()).compare(*names))


@app.command()
def reproduce(
    name: Name,
    number: Annotated[int, typer.Argument(help="number of a trial")],
    study: Annotated[
        str | None, typer.Option(help="a study of the ledger; default: the search as it is now")
    ] = None,
) -> str:
    """Train one trial again, alone, and say whether the record is identical."""
    from pipeline.commands.reproduce import reproduce_trial

    return reproduce_trial(*here(), name, number, study)


@app.command()
def space(
    study: Annotated[str, typer.Argument(help="a study of the ledger")],
    file: Annotated[
        str | None, typer.Option(help="print this Python file of its own family instead")
    ] = None,
) -> None:
    """Print the search space of a study as a file, as the ledger has it."""
    from pipeline.commands.reproduce import study_space

    typer.echo(study_space(*here(), study, file), nl=False)


@app.command()
def verify(
    name: Name,
    train: Annotated[int, typer.Option(min=0, help="train so many trials again")] = 0,
    measure: Annotated[
        bool, typer.Option("--measure", help="measure the winner's weights again")
    ] = False,
    no_mlflow: Annotated[bool, typer.Option("--no-mlflow", help="leave MLflow out")] = False,
) -> Iterator[str]:
    """Recompute, without training, what a sweep states; name what does not follow."""
    from pipeline.commands.verify import verify as audited

    audit = audited(*here(), name, mlflow=not no_mlflow, train=train, measure=measure)
    follows = f"verify {name}: all follows: {', '.join(audit.seen)}"
    yield from [*(audit.findings or [follows]), *audit.notes]
    if audit.findings:
        found = len(audit.findings)
        raise UserError(
            f"verify {name}: {found} finding{'s' * (found > 1)}: run the stage of the first again,"
            " or restore its files; MLflow is brought up to date by `sync`"
        )


@app.command()
def retry(
    name: Name,
    number: Annotated[
        int | None, typer.Argument(help="a failed search trial; default: all that failed")
    ] = None,
) -> list[str]:
    """Re-open failed trials, and those that were proposed or pruned after seeing them."""
    from pipeline.commands.retry import retry_failed

    return retry_failed(*here(), name, number)


@app.command()
def sync(
    name: NameOrAll = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="send everything again; undo deletions in MLflow")
    ] = False,
) -> Iterator[str]:
    """Bring MLflow up to date with the ledger and the outputs."""
    from pipeline.sync.follow import sync_all

    return sync_all(*here(), name, rebuild=rebuild)


def _wishing_command(verb: str, summary: str) -> None:
    def command(name: Name) -> str:
        from pipeline.commands.workers import tell

        return tell(*here(), name, None if verb == "resume" else verb)

    app.command(verb, help=summary)(command)


_wishing_command("cancel", "Tell all workers of a sweep, on all hosts, to save and leave.")
_wishing_command("pause", "Tell them to save and wait.")
_wishing_command("resume", "Tell them to go on.")


@app.command()
def where(run_id: Annotated[str, typer.Argument(help="an MLflow run id")]) -> str:
    """Where an MLflow run comes from, and the commands that recreate it."""
    from pipeline.commands.where import where_text

    return where_text(*here(), run_id)


@app.command()
def ui(
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="port on the loopback interface")
    ] = 5000,
) -> int:
    """Open MLflow on the runs of this checkout."""
    from pipeline.commands.ui import serve_ui

    return serve_ui(*here(), port)


@app.command(hidden=True)
def settings(name: Name) -> None:
    """Write what the stages of a sweep work from (DVC does so first)."""
    from pipeline.settings.snapshot import take

    take(Paths(checkout(), name))


@app.command("own-data", hidden=True)
def own_data() -> None:
    """Look for changes in the own data of the sweeps of params.yaml (DVC does so first)."""
    from pipeline.settings.snapshot import own_data as look

    look(checkout())


@app.command()
def worker(
    job: Annotated[str, typer.Argument(help="a sweep whose command is at work, or a job's id")],
    slot: Annotated[int, typer.Argument(min=0, help="its number on this host")] = 0,
    child: Annotated[bool, typer.Option("--child", hidden=True)] = False,
    only: Annotated[str | None, typer.Option(hidden=True)] = None,
    after: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> int:
    """Work on a sweep of this storage, whichever host its command was given on."""
    from pipeline.work.leave_signals import listen

    told = listen(alone=not child)  # before anything heavy
    from pipeline.commands.worker import work

    return work(checkout(), job, slot, told, child=child, only=only, after=after)


@app.command(hidden=True)
def mirror(name: str) -> None:
    """Follow a sweep in MLflow until standard input closes (started by search and retrain)."""
    from pipeline.sync.follow import follow

    follow(*here(), name)
