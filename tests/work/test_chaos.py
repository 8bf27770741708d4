"""A storm of kill -9 over search and retrain: workers, parents and all at once, until they end."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from crews import Sweep, children, make_sweep, no_one_left, sweep
from once import once

from pipeline.settings.space import parse_space
from pipeline.study.storage.claim import MAX_STRIKES

pytestmark = pytest.mark.slow

KILLS = {"search": 6, "retrain": 3}  # in each of six storms
LIMIT = 600.0  # seconds a stage may take
RAW = sweep(
    parameters={"patience": None},
    search={"trials": 6, "epochs": 60, "parallelism": 4, "min_epochs": 20},
    retrain={"top": 2, "seeds": 2, "epochs": 60},
)


class Storm:
    """Kills random processes of a command, but no trial's worker three times in one epoch."""

    def __init__(self, made: Sweep, seed: int):
        self.kills = 0
        self._made = made
        self.ledger = made.ledger
        self._rng = random.Random(seed)
        self._seen = 0  # epochs reported when the last idle worker was killed

    def rage(self, parent: int) -> None:
        """At most one blow, at a moment in which it may fall."""
        held = self._made.held(self.ledger)
        if any(trial.strikes >= MAX_STRIKES - 1 for trial in held):
            return
        workers = children(parent)
        holders = {int(t.owner.split("/")[1]) for t in held if t.owner}
        epochs = sum(len(trial.curve) for trial in held)
        blow = self._rng.choice(["worker", "worker", "worker", "idle", "parent", "all"])
        if blow == "worker" and holders & set(workers):
            self._kill([self._rng.choice(sorted(holders & set(workers)))])
        elif blow == "idle" and set(workers) - holders and epochs != self._seen:
            self._kill([self._rng.choice(sorted(set(workers) - holders))])
            self._seen = epochs
        elif blow == "parent" and holders & set(workers):
            self._kill([parent])
        elif blow == "all" and holders & set(workers):
            everyone = [parent, *workers]
            self._rng.shuffle(everyone)
            self._kill(everyone)

    def _kill(self, pids: list[int]) -> None:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
                self.kills += 1
            except ProcessLookupError:  # it was faster
                pass


def run_through(made: Sweep, stage: str, workers: int, storm: Storm, kills: int) -> int:
    """Gives the same command until it is done; how often it was given."""
    end, until, starts = time.monotonic() + LIMIT, storm.kills + kills, 0
    while time.monotonic() < end:
        command, starts = made.start(stage, workers), starts + 1
        with no_one_left(command):
            while command.poll() is None and time.monotonic() < end:
                if storm.kills < until:
                    storm.rage(command.pid)
                time.sleep(0.05)
        if command.returncode == 0:
            return starts
        assert command.returncode == -signal.SIGKILL, made.errors
    raise AssertionError(f"{stage} is not done after {LIMIT:.0f} s:\n{made.errors}")


@pytest.fixture(scope="module")
def undisturbed(request: pytest.FixtureRequest) -> dict[str, bytes]:
    """The outputs of one worker to whom nothing happens."""

    def calm(root: Path) -> None:
        made = make_sweep(root, RAW)
        for stage in KILLS:
            run_through(made, stage, 1, Storm(made, 0), kills=0)

    made = Sweep(once(request, "calm", calm), parse_space("tiny", RAW, "search_spaces/tiny.yaml"))
    return made.outputs(*KILLS)


@pytest.mark.parametrize(
    ("workers", "seed", "storage"),
    [(1, 101, "sqlite"), (2, 102, "postgresql"), (4, 104, "postgresql")],
    indirect=["storage"],
)
def test_a_storm_changes_no_byte(
    workers: int, seed: int, storage: str, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    """On SQLite and on PostgreSQL, whose storms differ: processes die at other moments."""
    made = make_sweep(tmp_path / "clone", RAW)
    made.storage = storage
    storm = Storm(made, seed)
    starts = [run_through(made, stage, workers, storm, kills) for stage, kills in KILLS.items()]
    print(f"{workers} workers, seed {seed}: {storm.kills} kills, commands given {starts} times")
    outputs = made.outputs(*KILLS)
    assert [name for name in undisturbed if outputs.get(name) != undisturbed[name]] == []
    assert outputs.keys() == undisturbed.keys()
    assert storm.kills >= sum(KILLS.values())
    assert made.held(storm.ledger) == []
    storm.ledger.close()
