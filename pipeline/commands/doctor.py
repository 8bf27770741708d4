"""`doctor`: whether all that a sweep needs is there; what is wrong, and how to mend it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError
from pipeline.paths import Paths
from pipeline.settings.machine import Machine, cores
from pipeline.study.storage.health import health
from pipeline.tracking.store import mask
from pipeline.work.slurm import refusal

MATTER = ("torch", "numpy", "optuna", "sqlalchemy", "mlflow", "dvc")  # of the packages
LEAST_BYTES = 2 * 1000**3  # free, for data, checkpoints and weights
MOST_SKEW = 30.0  # seconds between our clock and the storage's: leases go by the latter alone
SECONDS = 10.0  # for an answer
PER_WORKER = 2  # connections: one for its work, one for its renewals


@dataclass(frozen=True)
class Finding:
    """What was found at one place; `remedy` is empty where all is well."""

    place: str
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        mark = "wrong" if self.remedy else "ok"
        return f"{mark:5} {self.place}: {self.found}{self.remedy and ': '}{self.remedy}"


def examine(root: Path, machine: Machine) -> list[Finding]:
    """All findings, those that are in order too. Changes nothing."""
    looks: tuple[Callable[[Path, Machine], Iterator[Finding]], ...] = (
        _environment, _device, _storage, _tracker, _optuna, _slurm, _disk, _dvc,
    )  # fmt: skip
    return [finding for look in looks for finding in look(root, machine)]


def doctor_lines(root: Path, machine: Machine) -> Iterator[str]:
    """The findings. Raises UserError after them if something is wrong."""
    findings = examine(root, machine)
    yield from map(str, findings)
    if wrong := [finding.place for finding in findings if finding.remedy]:
        raise UserError(f"doctor: wrong: {', '.join(wrong)}: mend what is said above")


def _environment(root: Path, _: Machine) -> Iterator[Finding]:
    python = ".".join(map(str, sys.version_info[:3]))
    lock, locked = root / "requirements.lock", defaultdict[str, list[str]](list)
    for line in lock.read_text(encoding="utf-8").splitlines() if lock.exists() else ():
        name, _eq, version = line.split(" ")[0].partition("==")
        locked[name].append(version)  # of some there are several, for several Pythons
    wrong = [
        f"{name} {here} instead of {' or '.join(locked[name])}"
        for name in MATTER
        if locked[name] and (here := _installed(name)) not in locked[name]
    ]
    if wrong:
        yield Finding("environment", f"Python {python}, {', '.join(wrong)}", "make .venv")
    else:
        yield Finding("environment", f"Python {python}, packages as in requirements.lock")


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _device(_: Path, machine: Machine) -> Iterator[Finding]:
    from pipeline.vae.process import resolve_device
    from pipeline.work.cards import IDLE, cards
    from pipeline.work.trainings import device_name

    if machine.slurm:
        gres = machine.slurm.gres or "none: workers compute on processors"
        yield Finding("device", f"of the nodes, gres {gres}")
        return
    try:
        if machine.device == IDLE:
            yield Finding("device", f"{IDLE}: {len(cards())} GPUs, taken when nobody uses them")
            return
        device = resolve_device(machine.device)
    except UserError as error:
        yield Finding("device", str(error), "see `nvidia-smi` for what is there")
        return
    yield Finding("device", f"{machine.device}: {device_name(device)}, {cores()} cores")


def _storage(root: Path, machine: Machine) -> Iterator[Finding]:
    paths = Paths(root, "")
    try:
        found = health(machine, paths, SECONDS)
    except UserError as error:
        yield Finding("storage", str(error), "then `python -m pipeline doctor` again")
        return
    if found is None:
        yield Finding("storage", f"{paths.ledger}, which the first search makes")
        return
    yield Finding("storage", f"{found.place}, version {found.version}")
    if abs(found.skew) > MOST_SKEW:
        yield Finding(
            "clock",
            f"{found.skew:+.0f} s from the storage's",
            "set this host's by NTP: times in tables and figures are wrong, leases are not",
        )
    workers = machine.workers or cores()
    need = PER_WORKER * workers
    if found.connections is not None:
        free = found.connections - found.used
        text = f"{found.connections} connections at most, {found.used} in use"
        more = f"{workers} workers need {need}: raise max_connections, or lower `workers`"
        yield Finding("connections", text, more if need > free else "")


def _tracker(root: Path, machine: Machine) -> Iterator[Finding]:
    from pipeline.tracking.store import sqlite_file, store_of

    if machine.tracking == "none":
        yield Finding("tracker", "off")
        return
    uri = store_of(machine, Paths(root, "")).uri
    if file := sqlite_file(uri):
        yield _database(file)
        return
    if not uri.startswith("http"):
        yield Finding("tracker", f"{mask(uri)}, not looked at")
        return
    plain = uri.rpartition("@")[2] if "@" in uri else uri.partition("://")[2]
    server = f"{uri.partition('://')[0]}://{plain.rstrip('/')}"
    try:
        with urllib.request.urlopen(f"{server}/health", timeout=SECONDS) as answer:
            answer.read()
        yield Finding("tracker", f"{server} answers")
    except urllib.error.HTTPError as error:
        yield Finding("tracker", f"{server} says {error.code}", "see its log, and `tracking`")
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", error)
        yield Finding(
            "tracker",
            f"{server} does not answer ({why})",
            "start it, or correct `tracking`: no trial waits for it, `sync` sends what is missing",
        )


def _optuna(_: Path, machine: Machine) -> Iterator[Finding]:
    if machine.optuna:
        from pipeline.study.optuna_storage import standing

        try:
            yield Finding("optuna", standing(machine.optuna, SECONDS))
        except UserError as error:
            goes_on = "no search waits for it, `export` writes what is missing"
            yield Finding("optuna", str(error), goes_on)


def _database(file: Path) -> Finding:
    if not file.exists():
        return Finding("tracker", f"{file}, which the first sync makes")
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as db:
            (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise sqlite3.DatabaseError(" ".join(found.split()))
            db.execute("SELECT 1 FROM experiments").fetchone()
    except sqlite3.OperationalError as error:
        return Finding("tracker", f"{file} cannot be used ({error})", "mend that")
    except sqlite3.DatabaseError as error:
        anew = "move it away, and the next sync makes another"
        return Finding("tracker", f"{file} is damaged ({error})", anew)
    return Finding("tracker", str(file))


def _slurm(_: Path, machine: Machine) -> Iterator[Finding]:
    if machine.slurm:
        why = refusal(machine)
        yield Finding("slurm", why or "takes the workers' jobs", why and "correct `slurm`")
        host = (machine.storage or "").rpartition("@")[2]
        if host.startswith(("localhost", "127.", "[::1]", "/")):
            yield Finding("slurm", f"`storage` is at {host}", "name it as the nodes reach it")


def _disk(root: Path, machine: Machine) -> Iterator[Finding]:
    from pipeline.study.storage.engine import NETWORK, file_system

    state = Paths(root, "").state
    folder = next(each for each in (state, *state.parents) if each.exists())
    free, kind = shutil.disk_usage(folder).free, file_system(folder)
    text = f"{folder} on {kind}, {free / 1e9:.1f} GB free"
    if free < LEAST_BYTES:
        yield Finding("disk", text, "make room: `python -m pipeline clean` says what nothing needs")
    elif not os.access(folder, os.W_OK):
        yield Finding("disk", f"{text}, not writable", "see to its rights")
    elif kind.lower() in NETWORK and machine.storage is None:
        yield Finding(
            "disk", text, "SQLite loses data there: set `storage`, postgresql://USER@HOST/DATABASE"
        )
    else:
        yield Finding("disk", text)


def _dvc(root: Path, _: Machine) -> Iterator[Finding]:
    if not (root / ".dvc").is_dir():
        yield Finding("dvc", "no .dvc in this checkout: only `python -m pipeline` works here")
        return
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "remote", "list"],
        cwd=root, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": "10000"},  # it breaks lines where a terminal would end
    )  # fmt: skip
    if done.returncode:
        yield Finding(
            "dvc", (done.stderr.strip().splitlines() or ["fails"])[-1], "mend .dvc/config"
        )
        return
    remotes = [line.split(None, 1) for line in done.stdout.splitlines()]
    if not remotes:
        yield Finding("dvc", "no remote: outputs stay in this checkout's cache")
    for name, rest in remotes:
        url = rest.strip().removesuffix("(default)").strip()  # a path may have spaces
        local = "://" not in url
        gone = local and not Path(url).exists()
        yield Finding(
            "dvc",
            f"remote {name} at {url.rpartition('@')[2]}",
            f"it is not there: mount or make it, or `dvc remote modify {name} url`" * gone,
        )
