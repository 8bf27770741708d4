"""Command line: parses and calls. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.errors import Interrupted, UserError, of_the_disk
from pipeline.paths import STAGES, is_text

if TYPE_CHECKING:
    from pipeline.settings.machine import Machine

READER_LEFT = 128 + 13  # SIGPIPE
STOPPED = (typer.Abort, KeyboardInterrupt)  # end of input, or Ctrl-C, in place of an answer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Hyperparameter search for variational autoencoders: stages, checks and helpers.",
)
Name = Annotated[str, typer.Argument(help="a sweep: the NAME of search_spaces/NAME.yaml")]
For = Annotated[str | None, typer.Option("--for", help="be done after so long: 90m, 2h, 1h30m")]
# Of all that may be wrong with a command line Typer exports one kind alone.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]
Until = Annotated[str | None, typer.Option(help="be done at 07:00 or 2030-12-31T07:00")]


def _root() -> Path:
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


def _here() -> tuple[Path, Machine]:
    """The checkout, and the machine that it is on."""
    from pipeline.settings.machine import load_machine

    root = _root()
    return root, load_machine(root)


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

    root, machine = _here()
    machine = _with_deadline(machine, duration, until)
    if gpus is not None:
        machine = _with_gpus(machine, gpus)
    return work(root, machine, names, add, then)


@app.command()
def nights() -> Iterator[str]:
    """What the nights have done, as a table; draws runs/nights/nights.png."""
    from pipeline.commands.nights import draw, nights_text

    yield nights_text(root := _root())
    if file := draw(root):
        yield f"figure: {file}"


@app.command()
def check(name: Name) -> Iterator[str]:
    """Validate a search space; print what would be searched and what it would cost."""
    from pipeline.commands.check import check_texts

    return check_texts(_root(), name)


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
    file = new_space(*_here(), name, images, seconds, family)
    return f"{file}: `python -m pipeline check {name}`, then `python -m pipeline run {name}`"


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(help="a sweep; default: all")] = None,
) -> Iterator[str]:
    """What the studies have done, who works on what, the time left, the space on disk."""
    from pipeline.commands.status import status_text

    wrong: list[str] = []
    yield status_text(*_here(), name, wrong)
    if wrong:
        more = f" (and {len(wrong) - 1} more sweeps are not in order)" if wrong[1:] else ""
        raise UserError(wrong[0] + more)


@app.command()
def doctor() -> Iterator[str]:
    """Examine environment, device, storage, tracker, Slurm and disk; say what to mend."""
    from pipeline.commands.doctor import doctor_lines

    return doctor_lines(*_here())


@app.command("list")
def list_() -> str:
    """All sweeps of this checkout: data, state, best, winner, size."""
    from pipeline.commands.list import list_text

    return list_text(*_here())


@app.command()
def clean(
    name: Annotated[str | None, typer.Argument(help="a sweep; default: all")] = None,
    studies: Annotated[
        bool, typer.Option("--studies", help="delete the ledger's rows of earlier forks, too")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
) -> Iterator[str]:
    """Say which files nothing needs any more, ask, and delete them."""
    from pipeline.commands.clean import find_rubbish, remove

    root, machine = _here()
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

    return str(write(*_here(), name, to or Path(f"{name}.tar")))


@app.command()
def export(
    name: Name,
    optuna: Annotated[str, typer.Option(help="URL of a storage, such as sqlite:///optuna.db")],
) -> str:
    """Write the search as a study of Optuna: its dashboard and plots read it."""
    from pipeline.commands.export import export_text

    return export_text(*_here(), name, optuna)


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

    return write(*_here(), name, study or [])


@app.command()
def compare(
    names: Annotated[
        list[str], typer.Argument(help="two sweeps or more; the first is compared with")
    ],
) -> str:
    """Sweeps side by side: figures, what differs, and whether the winners can be told apart."""
    from pipeline.api import Checkout

    return str(Checkout(_root()).compare(*names))


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

    return reproduce_trial(*_here(), name, number, study)


@app.command()
def space(
    study: Annotated[str, typer.Argument(help="a study of the ledger")],
    file: Annotated[
        str | None, typer.Option(help="print this Python file of its own family instead")
    ] = None,
) -> None:
    """Print the search space of a study as a file, as the ledger has it."""
    from pipeline.commands.reproduce import study_space

    typer.echo(study_space(*_here(), study, file), nl=False)


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

    audit = audited(*_here(), name, mlflow=not no_mlflow, train=train, measure=measure)
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

    return retry_failed(*_here(), name, number)


@app.command()
def sync(
    name: Annotated[str | None, typer.Argument(help="a sweep; default: all")] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="send everything again; undo deletions in MLflow")
    ] = False,
) -> Iterator[str]:
    """Bring MLflow up to date with the ledger and the outputs."""
    from pipeline.sync.follow import sync_all

    return sync_all(*_here(), name, rebuild=rebuild)


def _wishing_command(verb: str, summary: str) -> None:
    def command(name: Name) -> str:
        from pipeline.commands.workers import tell

        return tell(*_here(), name, None if verb == "resume" else verb)

    app.command(verb, help=summary)(command)


_wishing_command("cancel", "Tell all workers of a sweep, on all hosts, to save and leave.")
_wishing_command("pause", "Tell them to save and wait.")
_wishing_command("resume", "Tell them to go on.")


@app.command()
def where(run_id: Annotated[str, typer.Argument(help="an MLflow run id")]) -> str:
    """Where an MLflow run comes from, and the commands that recreate it."""
    from pipeline.commands.where import where_text

    return where_text(*_here(), run_id)


@app.command()
def ui(
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="port on the loopback interface")
    ] = 5000,
) -> int:
    """Open MLflow on the runs of this checkout."""
    from pipeline.commands.ui import serve_ui

    return serve_ui(*_here(), port)


@app.command(hidden=True)
def settings(name: Name) -> None:
    """Write what the stages of a sweep work from (DVC does so first)."""
    from pipeline.paths import Paths
    from pipeline.settings.snapshot import take

    take(Paths(_root(), name))


@app.command("own-data", hidden=True)
def own_data() -> None:
    """Look for changes in the own data of the sweeps of params.yaml (DVC does so first)."""
    from pipeline.settings.snapshot import own_data as look

    look(_root())


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

    return work(_root(), job, slot, told, child=child, only=only, after=after)


@app.command(hidden=True)
def mirror(name: str) -> None:
    """Follow a sweep in MLflow until standard input closes (started by search and retrain)."""
    from pipeline.sync.follow import follow

    follow(*_here(), name)


def _run_stages(
    stages: tuple[str, ...], name: str, duration: str | None = None, until: str | None = None
) -> str:
    from pipeline.commands.run import run_stages

    root, machine = _here()
    return run_stages(stages, root, name, _with_deadline(machine, duration, until))


def _with_deadline(machine: Machine, duration: str | None, until: str | None) -> Machine:
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


def _with_gpus(machine: Machine, which: str) -> Machine:
    """machine.yaml with `--gpus` in place of its device. Raises UserError."""
    from pipeline.work.cards import IDLE, cards

    if which != IDLE:
        raise UserError(f"--gpus must be {IDLE}, but got {which!r}: `device` names others")
    if machine.slurm:
        raise UserError("--gpus idle is for boxes without Slurm, which grants GPUs: slurm.gres")
    cards()
    return machine.model_copy(update={"device": IDLE})


def main() -> None:
    """The console script. Exit codes: 0 done, 1 a bug, 2 input or disk, 75 skipped, 130
    interrupted, 141 the reader of its output has left (`| head`), as a shell counts it."""
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
