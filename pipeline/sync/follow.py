"""When MLflow learns of a sweep: live from a process of its own, and on demand.

No trial and no stage ever waits for MLflow: while it is away, or without it, the ledger and the
outputs hold everything, and the next sync sends what is missing.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO

from pipeline.errors import UserError
from pipeline.paths import Paths
from pipeline.results.states import Kind
from pipeline.settings import deadline
from pipeline.settings.machine import Machine
from pipeline.settings.snapshot import read
from pipeline.settings.space import Space, load_space, space_names
from pipeline.study.storage.ledger import Ledger, storage_url
from pipeline.study.storage.outages import StorageAway
from pipeline.study.storage.readonly import working
from pipeline.sync.champion import register_winner, save_winner
from pipeline.sync.mlflow_runs import Sweep
from pipeline.sync.optuna_study import LiveStudy
from pipeline.sync.system import Sampler
from pipeline.tracking.mirror import Mirror, Report
from pipeline.tracking.records import Run
from pipeline.tracking.store import MirrorUnavailable, be_patient, store_of
from pipeline.work.budget_file import as_made

SHORTEST_SECONDS = 2.0  # between two looks at the ledger
LONGEST_SECONDS = 10.0
SHARE = 0.005  # of a core for following a sweep, as far as LONGEST_SECONDS allows
CATCH_UP_SECONDS = 60.0  # a command waits for its mirror after its work
LATE_SECONDS = 10.0  # the same at a deadline
STOP_SECONDS = 10.0  # the mirror has to save how far it came


def sync_all(root: Path, machine: Machine, name: str | None, *, rebuild: bool) -> Iterator[str]:
    """Brings MLflow up to date with one sweep or all that have begun; a line for each.

    To `rebuild` is to send everything again, whatever the store is known to hold, and to bring back
    what was deleted in MLflow. Raises UserError when MLflow takes no more.
    """
    be_patient()
    with working(machine, Paths(root, "")) as ledger:
        names = [name] if name else [n for n in space_names(root) if ledger.studies(n, Kind.SEARCH)]
        spaces = [as_made(load_space(root, each), Paths(root, each)) for each in names]
        begun = [space for space in spaces if ledger.studies(space.name, Kind.SEARCH)]
        for space in begun:
            try:
                yield _sync(Sweep(space, Paths(root, space.name), ledger), machine, rebuild=rebuild)
            except MirrorUnavailable as error:
                raise UserError(f"{_behind(space.name, error)}, the same command goes on") from None
    if not begun:
        yield f"sync{f' {name}' if name else ''}: the ledger has no search: nothing to send"


@contextmanager
def following(
    space: Space, machine: Machine, paths: Paths, done: str
) -> Iterator[Callable[[str], None]]:
    """Has a process of its own mirror the sweep while the block works.

    Yields what to call with the name of each stage that ends; `done` is the last one that has ended
    before.
    """
    if machine.tracking == "none" and machine.optuna is None:
        yield lambda stage: None
        return
    argv = [sys.executable, "-m", "pipeline", "mirror", space.name]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said,
        subprocess.Popen(  # in a session of its own: Ctrl-C is the command's to handle
            argv,
            stdin=subprocess.PIPE,
            stderr=said,
            cwd=paths.root,
            start_new_session=True,
            text=True,
        ) as process,
    ):
        assert process.stdin is not None
        told, relayed = process.stdin, True
        try:
            _tell(told, done)
            yield lambda stage: _tell(told, stage)
        except (UserError, OSError):
            relayed = False  # the error is the only line
            raise
        finally:
            late = _finish(process, told, _late(space.name, machine), _patience(machine.until))
            if relayed:
                _relay(said, late)


def follow(root: Path, machine: Machine, name: str) -> None:
    """Mirrors a sweep until standard input ends, then once more; says what that came to.

    Every line of standard input is the name of a stage that has ended. SIGTERM ends it at once; it
    then remembers what it has sent.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    paths = Paths(root, name)
    try:
        space = read(paths)  # what the command works from, however the sweep's file is edited
        command = _Command()
        with closing(_opened(storage_url(machine, paths), command)) as ledger:
            for said in _follow(space, machine, paths, ledger, command):
                print(said, file=sys.stderr)
    except (MirrorUnavailable, StorageAway) as error:
        print(f"{_behind(name, error)}, `python -m pipeline sync {name}` goes on", file=sys.stderr)
    except UserError as error:  # it is no error of the command, which may well succeed
        print(f"sync {name}: {error}", file=sys.stderr)


def _follow(
    space: Space, machine: Machine, paths: Paths, ledger: Ledger, command: _Command
) -> Iterator[str]:
    looks: list[Callable[[str], bool]] = []
    sent: list[Report] = []
    if machine.tracking != "none":
        sweep = Sweep(space, paths, ledger.impatient(), live=True, done="prepare")
        mirror, sampler = Mirror(*store_of(machine, paths)), Sampler(sweep.samples)
        looks.append(lambda done: _send(sweep, mirror, sampler, done, sent))
    if machine.optuna is not None:
        looks.append(LiveStudy(space, paths, ledger.impatient(), machine.optuna).look)
    pause = SHORTEST_SECONDS
    while not command.ended(pause):
        began = time.process_time()
        moved = [look(command.done) for look in looks]
        if any(moved):
            pause = max((time.process_time() - began) / SHARE, SHORTEST_SECONDS)
        else:
            pause *= 2
        pause = min(pause, LONGEST_SECONDS)
    last = ledger.impatient(SHORTEST_SECONDS)  # the command has waited, or waits for us
    space = read(paths)  # whose budget a deadline may have chosen meanwhile
    away: Exception | None = None
    if machine.tracking != "none":
        try:
            yield _sync(Sweep(space, paths, last, done=command.done), machine, sent)
        except (MirrorUnavailable, StorageAway, UserError) as error:
            away = error
    if machine.optuna is not None:
        study = LiveStudy(space, paths, last, machine.optuna)
        study.look(command.done)
        if said := study.text():
            yield said
    if away:
        raise away


def _send(sweep: Sweep, mirror: Mirror, sampler: Sampler, done: str, sent: list[Report]) -> bool:
    """Brings MLflow up to date, and adds what was `sent`; whether anything has moved."""
    sweep.done = done
    runs = _changes(sweep)
    if sweep.active is not None:
        sampler.sample(sweep.active)
    if runs:
        try:
            sent.append(mirror.sync(sweep.space.name, runs, sweep.views()))
        except MirrorUnavailable:
            sweep.forget()  # the next look sends it all
    return bool(runs)


def _opened(url: str, command: _Command) -> Ledger:
    """Waits for the storage as long as the command does. Raises StorageAway."""
    while True:
        try:
            return Ledger(url, patience=0.0)
        except StorageAway:
            if command.ended(SHORTEST_SECONDS):
                raise


def _changes(sweep: Sweep) -> list[Run]:
    """What has moved; nothing while the storage is away."""
    try:
        return sweep.changes()
    except StorageAway:
        sweep.forget()  # half of a look is none
        return []


class _Command:
    """What the command that started us says: which stage has ended, and its own end."""

    def __init__(self) -> None:
        self.done = "prepare"
        self._news = threading.Event()
        self._over = False
        threading.Thread(target=self._listen, daemon=True).start()

    def ended(self, seconds: float) -> bool:
        """Waits for that long or for news; True at the command's end."""
        if self._news.wait(seconds):
            self._news.clear()
        return self._over

    def _listen(self) -> None:
        for line in sys.stdin:
            self.done = line.strip()
            self._news.set()
        self._over = True
        self._news.set()


def _tell(told: IO[str], stage: str) -> None:
    with suppress(BrokenPipeError):  # the mirror has failed and said why
        told.write(f"{stage}\n")
        told.flush()


def _late(name: str, machine: Machine) -> str:
    """What to say of a mirror that was ended before it had sent all."""
    if machine.tracking != "none":
        return f"MLflow is behind: `python -m pipeline sync {name}` sends the rest\n"
    return (
        f"Optuna's study is behind: `python -m pipeline export {name} --optuna URL` writes the"
        " rest\n"
    )


def _patience(until: datetime | None) -> float:
    """Seconds for the last sync; `sync` sends what a deadline leaves no time for."""
    left = (until - deadline.now()).total_seconds() if until else CATCH_UP_SECONDS
    return min(max(left, LATE_SECONDS), CATCH_UP_SECONDS)


def _finish(process: subprocess.Popen[str], told: IO[str], late: str, patience: float) -> str:
    """Waits for the last sync, though not for ever; `late` if it has not come to its end."""
    with suppress(BrokenPipeError):
        told.close()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        process.kill()
        return late
    return ""


def _relay(said: IO[str], late: str) -> None:
    """Prints what a mirror has said, unless the terminal is closed."""
    said.seek(0)
    with suppress(OSError):  # else the command would end by it and not by its own end
        sys.stderr.write(said.read() + late)
        sys.stderr.flush()


def _sync(
    sweep: Sweep, machine: Machine, sent: Sequence[Report] = (), *, rebuild: bool = False
) -> str:
    """Sends what is missing, and the winner; what that came to, with what was `sent` before.

    Raises MirrorUnavailable.
    """
    name = sweep.space.name
    store = store_of(machine, sweep.paths)
    mirror = Mirror(*store)
    save_winner(sweep)
    if rebuild:
        mirror.forget(name)
    runs = sweep.changes()
    report = mirror.sync(name, runs, sweep.views())
    registered = register_winner(sweep, store.uri, report.run_ids)
    reports = [*sent, report]
    return (
        f"sync {name}: {sum(each.created for each in reports)} new runs,"
        f" {sum(each.metrics for each in reports)} metric points,"
        f" {sum(each.artifacts for each in reports)} artifacts sent{registered}"
    )


def _behind(name: str, error: Exception) -> str:
    return f"sync {name}: {error}; nothing is lost"
