"""`sweep`: sweeps unattended, night after night, for cron, timers and batch systems.

Each is taken through all stages to an answer within its share of the time. What one of them comes
to, a mistake in its file included, is said in the summary and does not stop the others.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.commands.run_by_deadline import answer
from pipeline.commands.run_stage import say
from pipeline.commands.sweep_experiment import save_experiment
from pipeline.commands.sweep_night import Night, mark_killed
from pipeline.commands.sweep_standing import Standing, gained, standing
from pipeline.errors import Interrupted, OutOfTime, UserError, of_the_disk
from pipeline.files import read_json, write_text
from pipeline.paths import Paths
from pipeline.settings import deadline
from pipeline.settings.machine import Machine
from pipeline.settings.space import Space, load_space
from pipeline.study.budget import budget_text, with_budget
from pipeline.study.identity import search_study
from pipeline.study.storage.ledger import Ledger, storage_url
from pipeline.study.storage.readonly import reading
from pipeline.study.storage.turn import renewed, take_turn
from pipeline.sync.lag import lag_line
from pipeline.work.budget_file import as_made, as_worked_on
from pipeline.work.cards import check_device
from pipeline.work.lineage import NIGHT, commit_and_diff
from pipeline.work.owners import is_gone, owner_name, shown

SKIPPED, WRONG, BUG = 75, 2, 1  # exit codes
WAIT_SECONDS = 120.0  # for an earlier one to end
POLL_SECONDS = 1.0
THEN_SECONDS = 300.0  # of the command at the end
CODES = {"failed": WRONG, "broken": BUG}


def sweep(
    root: Path, machine: Machine, names: list[str], add: int | None = None, then: str | None = None
) -> int:
    """Takes each of the sweeps to an answer by `machine.until`; the exit code.

    `add` asks for so many trials more than there are, instead of those of the file; `then` is a
    command of the shell for the end. Raises Interrupted on a signal, when the summary is written.
    """
    if len(set(names)) < len(names):
        raise UserError(f"sweep: the sweeps must differ, but got {' '.join(names)}")
    mark_killed(root)
    night = Night.begin(root, names, machine.until)
    commit, diff = commit_and_diff(root)
    try:
        with _signals(), _turns(root, machine, names) as other:
            if other:
                return _skip(night, other)
            with _environment(NIGHT, night.name):
                for index in range(len(names)):
                    _take(night, index, root, machine, add)
            _keep(night, root, commit, diff)
    except UserError as error:  # of the database
        night.end("failed", str(error))
        _follow(night, then)
        raise
    except (Interrupted, KeyboardInterrupt):
        night.end("interrupted")
        _follow(night, then)
        raise Interrupted(
            f"sweep: interrupted: the next one goes on; see {night.summary}"
        ) from None
    states = [entry["state"] for entry in night.content["sweeps"]]
    night.end("failed" if set(states) & set(CODES) else "done")
    code = min((CODES[state] for state in states if state in CODES), default=0)
    if not _follow(night, then):
        code = code or WRONG
    say(f"sweep: night {night.name} is {night.content['state']}: {night.summary}")
    return code


def _skip(night: Night, other: str) -> int:
    for entry in night.content["sweeps"]:
        entry |= {"state": "skipped", "why": "another `sweep` is at work"}
    why = f"after {WAIT_SECONDS:.0f} s another `sweep` is still at work ({shown(other)})"
    night.end("skipped", why)
    say(f"sweep: skipped: {night.content['why']}")
    return SKIPPED


def _take(night: Night, index: int, root: Path, machine: Machine, add: int | None) -> None:
    """One of the sweeps; what it came to goes into the summary."""
    entries = night.content["sweeps"]
    entry: dict[str, Any] = entries[index]
    entry |= {"state": "at work", "why": ""}
    night.write()
    started, name = deadline.now(), entry["name"]
    paths, before = Paths(root, name), None
    machine = machine.model_copy(update={"until": _share(machine.until, len(entries) - index)})
    try:
        file = load_space(root, name)
        before = standing(machine, paths)
        asked = with_budget(file, {"search.trials": _trials(file, before, paths, add)})
        entry["trials"] = {"before": before.trials, "after": before.trials,
                           "asked": asked.search.trials}  # fmt: skip
        check_device(machine)
        made = answer(asked, machine, paths, file)
        entry |= _outcome(before, standing(machine, paths), asked, made)
    except OutOfTime as error:
        entry |= {"state": "no time", "why": str(error)}
    except (Interrupted, KeyboardInterrupt) as error:
        entry |= {"state": "interrupted", "why": str(error)}
        raise
    except UserError as error:
        entry |= {"state": "failed", "why": str(error)}
    except OSError as error:
        said = of_the_disk(error)
        entry |= {"state": "failed", "why": said} if said else _broken(night, name)
    except Exception:
        entry |= _broken(night, name)
    finally:
        _add_facts(entry, before, root, machine, paths)
        entry["seconds"] = round((deadline.now() - started).total_seconds(), 1)
        night.write()
    say(f"sweep {name}: {entry['state']}{': ' * bool(entry['why'])}{entry['why']}")


def _share(until: datetime | None, waiting: int) -> datetime | None:
    """Of the time that is left: the same for each that still waits."""
    now = deadline.now()
    return until and now + (until - now) / waiting


def _trials(file: Space, before: Standing, paths: Paths, add: int | None) -> int:
    """How many are asked for this time: never fewer than there are outputs of."""
    if add is None:
        return as_worked_on(file, paths).search.trials
    from pipeline.study.search.beginning import kept_trials  # late: it imports torch

    done = 0
    with suppress(OSError, UserError, KeyError):
        study = search_study(file, read_json(paths.manifest)["sha256"])
        done = before.trials or 0 if read_json(paths.best)["study"] == study.id else 0
    return max(done, kept_trials(file, paths)) + add


def _outcome(before: Standing, after: Standing, asked: Space, made: Space) -> dict[str, Any]:
    gain = gained(before.winner, after.winner)
    closed = f"closed with {budget_text(asked, made)}" if made != asked else ""
    state, why = ("improved" if gain["is_better"] else "not better"), closed
    if not any(after.tried(before).values()) and before.trials == after.trials:
        state = "nothing to do"
        why = closed or f"all {asked.search.trials} trials are done: --add N asks for more of them"
    old, new = before.winner, after.winner
    return {
        "state": state,
        "why": why,
        "trials": {"before": before.trials, "after": after.trials, "asked": asked.search.trials},
        "winner": {"before": old and old.record, "after": new and new.record, "gain": gain},
    }


def _add_facts(
    entry: dict[str, Any], before: Standing | None, root: Path, machine: Machine, paths: Paths
) -> None:
    """What the ledger has got, however it ended, and what MLflow has not."""
    if before is None:
        return
    with suppress(UserError):
        after = standing(machine, paths)
        entry |= {"tried": after.tried(before), "failures": after.failures(before)}
        with reading(machine, paths) as ledger:
            space = as_made(load_space(root, paths.name), paths)
            entry["tracking"] = lag_line(root, space, machine, ledger)


def _keep(night: Night, root: Path, commit: str, diff: bytes | None) -> None:
    """New outputs become an experiment of DVC; the summary says if they could not."""
    sweeps = night.content["sweeps"]
    names = [entry["name"] for entry in sweeps if entry["state"] in ("improved", "not better")]
    if not names:
        return
    experiment, why = f"night-{night.name}", ""
    try:
        save_experiment(root, experiment, names, commit, diff)
    except (OSError, UserError) as error:
        why = str(error)
    night.content["experiment"] = {"name": experiment, "why": why}


def _broken(night: Night, name: str) -> dict[str, Any]:
    """Of a bug: the traceback is kept beside the summary."""
    file = night.folder / f"{name}.traceback.txt"
    write_text(file, traceback.format_exc())
    last = traceback.format_exc().strip().splitlines()[-1]
    return {"state": "broken", "why": f"{last} (a bug: {file})"}


def _follow(night: Night, then: str | None) -> bool:
    """Runs the command for the end, which finds the summary on disk; whether it has succeeded."""
    if then is None:
        return True
    known = {**os.environ, NIGHT: night.name, "PIPELINE_SUMMARY": str(night.summary)}
    process = subprocess.Popen(then, shell=True, env=known, start_new_session=True)
    try:
        code = process.wait(THEN_SECONDS)
        outcome = "done" if code == 0 else f"failed with exit code {code}"
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        outcome = f"stopped after {THEN_SECONDS:.0f} s"
    night.content["then"] = {"command": then, "outcome": outcome}
    night.write()
    return outcome == "done"


@contextmanager
def _turns(root: Path, machine: Machine, names: list[str]) -> Iterator[str | None]:
    """Takes the turn of each sweep, waits for it if need be; who has one of them after all."""
    owner, end = owner_name(os.getpid()), time.monotonic() + WAIT_SECONDS
    with ExitStack() as held:
        ledger = held.enter_context(closing(Ledger(storage_url(machine, Paths(root, "")))))
        for name in sorted(names):  # in one order, so that no two wait for each other
            while (holder := take_turn(ledger, f"sweep {name}", owner, is_gone)) != owner:
                if time.monotonic() > end:
                    yield holder
                    return
                time.sleep(POLL_SECONDS)
            held.enter_context(renewed(ledger, f"sweep {name}", owner, _lost))
        yield None


def _lost() -> None:
    say("sweep: another one has taken the turn: this one ends")
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM, as of a timer's end, and a hang-up are heard like Ctrl-C, between stages too."""
    before = {kind: signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGHUP)}
    for kind, handler in before.items():
        if handler != signal.SIG_IGN:  # as nohup sets it
            signal.signal(kind, signal.default_int_handler)
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})
