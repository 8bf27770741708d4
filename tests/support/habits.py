"""A storm of habits: one sweep on digits, worked on as people do, and all that it then states
compared with calm runs.

    PYTHONPATH=. python tests/support/habits.py --minutes 60 --seed 1 [--postgres]

The sweep is edited and edited back, its data are swapped, commands are killed, interrupted and
given at the same time, trainings meet faults, stores are deleted, moved away and restarted.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml
from blows import FAULTS, family, once, words
from calm import EDITS, NAME, Oracle, State, write_digits
from claims import STAGES, Claims
from crews import ROOT
from postgres import Postgres
from surroundings import ARITHMETIC

LIMIT = 600.0  # seconds that a command may take on a crowded machine
CALM = State()
COMPUTE = ("OPENBLAS_", "MKL_", "NPY_", "ATEN_", "ONEDNN_")  # variables that change last bits


@dataclass
class Storm:
    """A checkout, what is done to it, and how much of that there was."""

    folder: Path
    rng: random.Random
    postgres: Postgres | None = None
    workers: int = 2
    state: State = CALM
    seen: list[State] = field(default_factory=list)
    queued: list[State] = field(default_factory=list)
    actions: Counter[str] = field(default_factory=Counter)
    claims: Claims = field(init=False)

    def __post_init__(self) -> None:
        self.root, self.away = self.folder / "checkout", self.folder / "away"
        storage = self.postgres.url if self.postgres else None
        self.claims = Claims(self.root, Oracle(self.folder), storage)

    # the checkout

    def clone(self) -> None:
        """Makes the checkout: a Git repository with DVC, as a clone is."""
        self.root.mkdir()
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "pipeline", self.root / "pipeline", ignore=ignored)
        for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
            shutil.copy(ROOT / name, self.root)
        (self.root / "params.yaml").write_text(f"spaces:\n  - {NAME}\n")
        (self.root / "search_spaces").mkdir()
        storage = f"storage: {self.postgres.url}\n" if self.postgres else ""
        (self.root / "machine.yaml").write_text(f"workers: {self.workers}\ndevice: cpu\n{storage}")
        (self.folder / "faults").mkdir()
        (self.folder / "faults" / "sitecustomize.py").write_text(FAULTS)
        self.become(State(), "")
        for command in ("git init -q", "git config user.name tester", "dvc init -q",
                        "git config user.email tester@localhost", "git add .",
                        "git commit -q -m first"):  # fmt: skip
            subprocess.run(command.split(), cwd=self.root, env=self.environment(), check=True)

    def environment(self, fault: str = "") -> dict[str, str]:
        scripts = Path(sys.executable).parent
        places = [self.folder / "faults", self.root]
        return {
            # A calm run in this process must compute as the commands do.
            **{name: value for name, value in os.environ.items() if name.startswith(COMPUTE)},
            "PATH": f"{scripts}:/usr/bin:/bin",
            "HOME": str(self.folder),
            "PYTHONPATH": ":".join(map(str, places)),
            "FAULT": fault,
            **ARITHMETIC,
            "OMP_NUM_THREADS": "1",
        }

    # habits between and during commands

    def become(self, state: State, action: str) -> None:
        """Writes what differs of the space and the data."""
        if not self.seen or state.data != self.state.data:
            write_digits(self.root / "mine.npz", state.data)
        if not self.seen or state.edits != self.state.edits:
            self.space.write_text(yaml.safe_dump(state.space))
        self.state = state
        self.seen.append(state)
        if action:
            self.actions[action] += 1

    @property
    def space(self) -> Path:
        return self.root / "search_spaces" / f"{NAME}.yaml"

    def edit(self) -> None:
        edits = frozenset([self.rng.choice(list(EDITS))])
        self.become(State(edits, self.state.data), "edited")

    def undo(self) -> None:
        self.become(State(frozenset(), self.state.data), "undone")

    def swap(self) -> None:
        self.become(State(self.state.edits, 1 - self.state.data), "data swapped")

    def spoil(self) -> None:
        """A slip of the pen, a command, and the file as it was."""
        text = self.space.read_text()
        self.space.write_text(text.replace("search:", "serch:"))
        code = self.give("search", NAME)
        self.claims.check(code == 2, f"a space with a mistake: search ended with {code}")
        self.space.write_text(text)
        self.actions["mistakes"] += 1

    def delete_mlflow(self) -> None:
        for name in ("mlflow.db", "mlflow.db-wal", "mlflow.db-shm"):
            (self.root / "runs" / "state" / name).unlink(missing_ok=True)
        shutil.rmtree(self.root / "runs" / "state" / "mlflow-artifacts", ignore_errors=True)
        self.actions["MLflow deleted"] += 1

    def move_ledger(self) -> None:
        """Moves the ledger away, or the one that was moved back."""
        if self.postgres:
            return self.restart_postgres()
        self.away.mkdir(exist_ok=True)
        names = ("ledger.db", "ledger.db-wal", "ledger.db-shm")
        there, here = self.away, self.root / "runs" / "state"
        back = (there / names[0]).exists()
        for name in names:
            if back:
                (here / name).unlink(missing_ok=True)
            if (origin := (there if back else here) / name).exists():
                shutil.move(origin, (here if back else there) / name)
        self.actions["ledger moved back" if back else "ledger moved away"] += 1

    def age_ledger(self) -> None:
        """Keeps a copy of the ledger, or puts back the one that was kept: it moves back in time."""
        ledger, kept = self.root / "runs" / "state" / "ledger.db", self.folder / "older.db"
        if self.postgres or not (ledger if not kept.exists() else kept).exists():
            return
        back = kept.exists()
        origin, copy = (kept, ledger) if back else (ledger, kept)
        with closing(sqlite3.connect(origin)) as old, closing(sqlite3.connect(copy)) as new:
            old.backup(new)
        if back:
            kept.unlink()
        self.actions["ledger replaced by an older copy" if back else "ledger copied"] += 1

    def queue(self) -> None:
        """Experiments that are queued now and run later, maybe after an edit."""
        more = ["-S", f"search_spaces/{NAME}.yaml:search.trials=4"]
        if self.queued:
            later = [State(state.edits, self.state.data) for state in self.queued]
            self.seen[-1:-1] = later
            self.queued.clear()
            self.give("dvc", "exp", "run", "--run-all", **self.during())
        else:
            edits = self.state.edits | {"more trials"}
            if self.give("dvc", "exp", "run", "--queue", "-S", f"spaces=[{NAME}]", *more) == 0:
                self.queued.append(State(edits, self.state.data))
                self.seen[-1:-1] = self.queued

    def restart_postgres(self) -> None:
        if self.postgres:
            self.postgres.stop()
            time.sleep(self.rng.uniform(0.0, 3.0))
            self.postgres.start()
            self.actions["PostgreSQL restarted"] += 1

    # commands

    def start(self, argv: list[str], out: Path, fault: str = "") -> subprocess.Popen[str]:
        if argv[0] != "dvc":
            argv = [sys.executable, "-m", "pipeline", *argv]
        with out.open("w") as text:
            return subprocess.Popen(
                argv, cwd=self.root, env=self.environment(fault), stdout=text,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
                start_new_session=True,
            )  # fmt: skip

    def give(self, *argv: str, blow: Callable[[int], bool] | None = None, fault: str = "") -> int:
        """Gives a command and strikes it; the exit code. All that it started ends with it."""
        left = self.folder / "fault"
        if fault:
            left.touch()
            self.actions[f"{fault} thrown into a training"] += 1
        out = self.folder / f"said-{sum(self.actions.values())}-{argv[-1].replace('/', '-')}"
        command = self.start(list(argv), out, f"{fault}:{left}" if fault else "")
        self.actions[f"`{argv[0]}{' exp run' * ('exp' in argv)}`"] += 1
        end, struck, begun = time.monotonic() + LIMIT, False, dict[int, psutil.Process]()
        when = time.monotonic() + self.rng.expovariate(1 / 15)
        while command.poll() is None and time.monotonic() < end:
            begun |= {process.pid: process for process in family(command.pid)}
            if blow and not struck and time.monotonic() > when:
                struck = blow(command.pid)
            time.sleep(0.05)
        self.claims.check(command.poll() is not None, f"{argv} is not done after {LIMIT:.0f} s")
        command.kill()
        _, alive = psutil.wait_procs(list(begun.values()), timeout=60)
        self.claims.check(not alive, f"{argv} has left {[p.pid for p in alive]} behind")
        left.unlink(missing_ok=True)
        killed = struck and blow == self.kill
        self.claims.heard(list(argv), command.wait(), out.read_text(), killed=killed)
        return command.returncode

    def kill(self, pid: int) -> bool:
        """One signal to one process of a command's, or to all as a terminal does."""
        kinds = {"worker": "worker", "mirror": "mirror", "crew": "pipeline", "dvc": "dvc"}
        whom = self.rng.choice([*kinds, "worker", "crew", "all"])
        how = self.rng.choice(
            [signal.SIGKILL] * 3 + [signal.SIGTERM] * 2 + [signal.SIGINT]
            + [signal.SIGHUP, signal.SIGQUIT, signal.SIGSTOP]
        )  # fmt: skip
        if whom == "all":
            os.killpg(pid, how)
        else:
            found = [p for p in family(pid) if kinds[whom] in words(p)]
            crew = {"worker", "mirror"}
            found = [p for p in found if whom in crew or not crew & set(words(p))]
            if not found:
                return False
            with suppress(psutil.NoSuchProcess):
                self.rng.choice(found).send_signal(how)
        if how == signal.SIGSTOP:
            time.sleep(self.rng.uniform(0.0, 5.0))
            for process in family(pid):
                with suppress(psutil.NoSuchProcess):
                    process.resume()
        self.actions[f"{how.name} to {whom}"] += 1
        return True

    def during(self) -> dict[str, Any]:
        """What happens to the next command."""

        look = self.rng.choice([("status", NAME), ("verify", NAME), ("sync", NAME)])
        return self.rng.choice(
            [{"blow": self.kill}] * 6
            + [{"blow": once(self.edit)}, {"blow": once(self.undo)}, {"blow": once(self.swap)}]
            + [{"fault": "EIO"}, {"fault": "out of memory"}]
            + [{"blow": once(self.delete_mlflow)}, {"blow": once(lambda: self.give(*look))}]
            + [{"blow": once(self.restart_postgres)}] * (4 if self.postgres else 0)
        )  # fmt: skip

    # the storm

    def cycle(self) -> None:
        """Habits, a command that is struck, a look at everything."""
        habits = [self.edit, self.undo, self.swap, self.edit, self.undo, self.swap]
        habits += [self.spoil, self.delete_mlflow, self.move_ledger, self.move_ledger]
        habits += [self.age_ledger, self.age_ledger]
        for habit in self.rng.sample(habits, self.rng.choice([0, 1, 1, 2])):
            habit()
        repro, by_hand = ["dvc", "repro"], [[stage, NAME] for stage in ("run", *STAGES)]
        temp = ["dvc", "exp", "run", "--temp", "-S", f"spaces=[{NAME}]"]
        command = self.rng.choices([repro, self.rng.choice(by_hand), temp, []], [9, 6, 1, 1.5])[0]
        self.give(*command, **self.during()) if command else self.queue()
        self.claims.look(self)

    def settle(self) -> None:
        """In calm, every command does what it is for and all is as in a calm run."""
        code = self.give("dvc", "repro")
        self.claims.check(code == 0, f"`dvc repro` in calm ended with {code}")
        self.claims.settled(self)


def storm(
    minutes: float,
    seed: int,
    *,
    postgres: bool = False,
    workers: int = 2,
    cycles: int | None = None,
) -> Storm:
    """Cycles until the time is up or so many are done; every third one ends in calm."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="habits-")))
        folder.chmod(0o755)
        server = None
        if postgres:
            (folder / "postgres").mkdir()
            server = Postgres(folder / "postgres")
            server.start()
            stack.callback(lambda: server.stop())
        made = Storm(folder, random.Random(seed), server, workers)
        made.clone()
        end, done = time.monotonic() + minutes * 60, 0
        while time.monotonic() < end and (cycles is None or done < cycles):
            made.cycle()
            done += 1
            if done % 3 == 0:
                made.settle()
            print(f"{done} cycles: {made.claims.summary()}", flush=True)
        made.settle()
        made.actions["cycles"] = done
        return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--postgres", action="store_true", help="the ledger is in PostgreSQL")
    parser.add_argument("--workers", type=int, default=2, help="of each command")
    options = parser.parse_args()
    made = storm(options.minutes, options.seed, postgres=options.postgres, workers=options.workers)
    actions = ", ".join(f"{count} {name}" for name, count in sorted(made.actions.items()))
    print(f"{options.minutes:g} minutes, seed {options.seed}: {actions}: {made.claims.summary()}")
    raise SystemExit(bool(made.claims.falsehoods))


if __name__ == "__main__":
    main()
