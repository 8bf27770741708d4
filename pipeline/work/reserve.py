"""The time that stages after a search need, from what was measured: when it has to close.

Epochs of a candidate were timed when it was a trial of the search, evaluate and render when they
ran last for the sweep here. What was never timed is guessed from the epochs, on the safe side; on
a machine that others keep busy, by as much more as the last epochs had to wait for a core.
"""

from __future__ import annotations

import heapq
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta

from pipeline.errors import UserError
from pipeline.files import read_json, write_json
from pipeline.paths import Paths
from pipeline.results.states import State
from pipeline.settings import deadline
from pipeline.settings.machine import Machine, cores
from pipeline.settings.space import Space
from pipeline.study.budget import LEAST_SEEDS, Budget, finished_runs, finished_trials
from pipeline.study.identity import Study, candidate_study, search_study
from pipeline.study.ledger import Ledger
from pipeline.study.patience import StorageAway
from pipeline.study.racing import race_of
from pipeline.study.ranking import ranked
from pipeline.study.rows import Part, trials_of
from pipeline.study.watch import Watch
from pipeline.work.stopping import GRACE_SECONDS

LOOK_SECONDS = 1.0  # between two looks at the ledger
TRAINING = 1.15  # times what the same epochs have taken before
AGAIN = 1.25  # times what a stage has taken before
START_SECONDS = 20.0  # of workers, with torch, on a machine that is BUSY
TABLES_SECONDS = 6.0  # to close a search
BUSY = 2.0  # times their computing that epochs take, up to which the guesses hold
LAST_EPOCHS = 20
FORWARD = 0.5  # of the time of a training step, at most
EVALUATE_SECONDS, RENDER_SECONDS = 8.0, 30.0  # beside the passes over the images; of figures


class Reserve:
    """Says when search and retrain have used up their shares of the time until a deadline."""

    def __init__(
        self, space: Space, until: datetime, machine: Machine, paths: Paths, ledger: Ledger
    ):
        """`ledger` is where the trials are; the data are prepared."""
        self._space, self._paths, self.until = space, paths, until
        # Slurm's are as many as there are runs, as far as it has room.
        self._workers = machine.workers or (sys.maxsize if machine.slurm else cores())
        self._ledger = ledger.impatient()
        manifest = read_json(paths.manifest)
        self._data, self._counts = manifest["sha256"], manifest["counts"]
        self._watch = Watch(self._ledger, search_study(space, self._data), space)
        self._looked, self._late = 0.0, False
        self._at_first = self.left()

    def search_is_over(self) -> bool:
        """Whether the search has to close now, for a winner and a report by the deadline.

        As long as it has nothing to close with, and where there is no time for an answer anyway,
        it goes on until the deadline itself.
        """
        with suppress(StorageAway):  # which says nothing new
            if time.monotonic() >= self._looked + LOOK_SECONDS:
                self._late = self._search_is_over()
                self._looked = time.monotonic()
        return self._late

    def _search_is_over(self) -> bool:
        self._watch.refresh()
        parts = [part for part in self._watch.parts if part.state != State.RUNNING]
        trials = ranked(trials_of(parts))
        top = self._space.retrain.top
        pace = max((_pace(part) for part in parts if part.curve), default=0.0)
        beside = self._beside(pace)
        entries = {part.trial: part for part in parts}
        best = [entries[entry["number"]] for entry in trials[:top]]
        least = self._training(best[:1], min(LEAST_SEEDS, self._space.retrain.seeds))
        whole = self._training(best, self._space.retrain.seeds)
        # Where time is short, half of it is for the search: what is a winner among very few worth?
        retrain = max(least, min(whole, (self._at_first - beside) / 2))
        left = self.left()
        if left <= 0 or left > beside + retrain:
            return left <= 0
        return left >= beside + least and finished_trials(self._space, self._watch.parts) > 0

    def searched(self) -> Budget | None:
        """The budget with which the search can close by now."""
        trials = finished_trials(self._space, self._ledger.parts(self._watch.study.id))
        return {"search.trials": trials} if trials else None

    def retrain_is_over(self) -> bool:
        """Whether retrain has to close now, for the winner to be measured by the deadline.

        It goes on until the deadline where it has nothing to close with.
        """
        if self.left() <= 0:
            return True
        if self.left() > self._beside(self._slowest()):
            return False
        with suppress(StorageAway):
            return self.retrained() is not None
        return False

    def retrained(self) -> Budget | None:
        """The budget with which retrain can close by now."""
        entries = read_json(self._paths.best)["ranking"][: self._space.retrain.top]
        chosen = [entry["parameters"] for entry in entries]
        studies = (candidate_study(self._space, self._data, each) for each in chosen)
        trials = [self._ledger.trials(study.id, range(study.budget)) for study in studies]

        def is_over(space: Space) -> bool:
            top = space.retrain.top
            race = race_of(space, chosen[:top], trials[:top])
            return race.over and bool(race.left)

        return finished_runs(self._space, len(entries), is_over)

    def _beside(self, pace: float) -> float:
        """Seconds that closing takes, and all stages after retrain."""
        tables = crowding(self._watch.parts) * TABLES_SECONDS
        return min(pace, GRACE_SECONDS) + tables + self.finish(pace)

    def finish(self, pace: float) -> float:
        """Seconds of evaluate and render. `pace`: of an epoch, for what was never timed."""
        known, evaluate = seconds_of(self._paths), self._space.evaluate
        weights = 2 + self._space.retrain.seeds  # files, each a pass over the test images
        passes = weights * (evaluate.nelbo_samples + 2) + evaluate.iw_samples
        share = self._counts["test"] / self._counts["train"]
        crowded = crowding(self._watch.parts)
        guesses = {
            "evaluate": crowded * EVALUATE_SECONDS + passes * share * pace * FORWARD,
            "render": crowded * RENDER_SECONDS,
        }
        return sum(AGAIN * known[s] if s in known else guess for s, guess in guesses.items())

    def _slowest(self) -> float:
        with suppress(StorageAway):
            self._watch.refresh()
        return max((_pace(part) for part in self._watch.parts if part.curve), default=0.0)

    def _training(self, best: Iterable[Part], seeds: int) -> float:
        """Seconds of what is left of the runs of these candidates."""
        runs = []
        check = FORWARD * self._counts["validation"] / self._counts["train"]
        measured = 0.0
        for part in best:
            study = candidate_study(self._space, self._data, part.parameters or {})
            done = {run.trial: run for run in self._ledger.parts(study.id)}
            for seed in range(seeds):
                runs.append(_epochs_left(done.get(seed), study) * _pace(part))
                measured += check * _pace(part)
        start = crowding(self._watch.parts) * START_SECONDS
        return start + TRAINING * _together(runs, self._workers) + measured

    def left(self) -> float:
        """Seconds until the deadline."""
        return (self.until - deadline.now()) / timedelta(seconds=1)


@contextmanager
def timed(stage: str, paths: Paths) -> Iterator[None]:
    """Keeps how long a stage takes, for the next deadline; where there is no place, nothing."""
    started = time.monotonic()
    yield
    taken = {**seconds_of(paths), stage: round(time.monotonic() - started, 2)}
    with suppress(OSError):
        write_json(paths.seconds, taken)


def seconds_of(paths: Paths) -> dict[str, float]:
    """What the stages of a sweep took here when they ran last; none of a damaged file."""
    try:
        found = read_json(paths.seconds)
        return {str(stage): float(seconds) for stage, seconds in found.items()}
    except (OSError, UserError, AttributeError, TypeError, ValueError):
        return {}


def crowding(parts: Iterable[Part]) -> float:
    """How many times longer than guessed anything takes: 1, unless the last epochs of a search
    took more than BUSY times their computing."""
    records = [record for part in parts for record in part.curve if record.get("core_seconds")]
    last = sorted(records, key=lambda record: record["ended_ms"])[-LAST_EPOCHS:]
    ratios = [record["seconds"] / record["core_seconds"] for record in last]
    return max(1.0, statistics.median(ratios) / BUSY) if ratios else 1.0


def _pace(part: Part) -> float:
    """Seconds of an epoch; the first one has more to do, so it is the middle one."""
    seconds = [
        record["seconds"] for record in part.curve if "seconds" in record
    ]  # not of kept ones
    return statistics.median(seconds) if seconds else 0.0


def _epochs_left(run: Part | None, study: Study) -> int:
    if run is None:
        return study.epochs
    goes_on = run.state in (State.RUNNING, State.PAUSED)
    return study.epochs - len(run.curve) if goes_on else 0


def _together(seconds: list[float], workers: int) -> float:
    """What takes so long each, one after the other by so many workers."""
    free = [0.0] * min(workers, max(len(seconds), 1))
    for each in seconds:
        heapq.heappush(free, heapq.heappop(free) + each)
    return max(free)
