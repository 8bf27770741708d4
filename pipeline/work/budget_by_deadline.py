"""When search and retrain have to close for a deadline, and with which budget: what was measured.

All is in core-seconds: epochs of a candidate as when it was a trial of the search, evaluate
and render as they last ran for the sweep here, what was never timed by guesses. What is left until
the deadline is worth as many of them as the machine gives by now, by the latest epochs.
"""

from __future__ import annotations

import heapq
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta

from pipeline.errors import UserError
from pipeline.files import read_json, write_json
from pipeline.paths import Paths
from pipeline.results.states import State
from pipeline.settings import deadline
from pipeline.settings.machine import Machine, cores
from pipeline.settings.space import Space
from pipeline.study.budget import LEAST_SEEDS, Budget, finished_trials, most_runs
from pipeline.study.confirmation.race_from_records import race_of
from pipeline.study.identity import Study, candidate_study, search_study
from pipeline.study.ranking import ranked
from pipeline.study.storage.ledger import Ledger
from pipeline.study.storage.outages import StorageAway
from pipeline.study.storage.rows import Part, trials_of
from pipeline.study.watch import Watch

LOOK_SECONDS = 1.0  # between two looks at the ledger
MARGIN = 2.0  # of what cannot become less any more, should the machine become slower meanwhile
TRAINING = 1.25  # of runs, of which the last may be left out
LATEST_EPOCHS = 20
# Core-seconds measured on small data, by one and a half (bench/LOG.md): of the search's tables, of
# workers that import torch, of choosing the winner, and of what no pass over the images is.
CLOSE, START, CHOOSE, EVALUATE, RENDER = 1.0, 4.0, 1.0, 3.0, 6.0
FORWARD = 0.2  # of the time of an epoch with as many images


class Reserve:
    """Says when search and retrain have used up their shares of the time until a deadline."""

    def __init__(
        self,
        space: Space,
        until: datetime,
        machine: Machine,
        paths: Paths,
        ledger: Ledger,
        stands: int = 0,
    ):
        """`ledger` is where the trials are; the data are prepared. The report that `stands` is of
        so many trials."""
        self._space, self._paths, self.until, self._stands = space, paths, until, stands
        # Slurm's are as many as there are runs, as far as it has room.
        self._workers = machine.workers or (sys.maxsize if machine.slurm else cores())
        self._ledger = ledger.impatient()
        manifest = read_json(paths.manifest)
        self._data, self._counts = manifest["sha256"], manifest["counts"]
        self._watch = Watch(self._ledger, search_study(space, self._data), space)
        self._candidates: list[Study] = []  # of a retraining
        self._looked = 0.0
        self._at_first = self.left()

    def search_is_over(self) -> bool:
        """Whether the search has to close now, for a winner and a report by the deadline.

        It goes on as long as it has nothing new to close with, and where an answer by the deadline
        is out of reach.
        """
        return self._look(self._search_is_over)

    def _search_is_over(self) -> bool:
        self._watch.refresh()
        best, beside = self._best(), MARGIN * CLOSE + self._beside()
        least = self._training(best[:1], min(LEAST_SEEDS, self._space.retrain.seeds))
        whole = self._training(best, self._space.retrain.seeds)
        # Where time is short, half of it is for the search: what is a winner among very few worth?
        half = (self._worth(self._at_first) - beside) / 2
        if self._worth(self.left()) > beside + max(least, min(whole, half)):
            return False
        in_reach = self.left() >= (beside + least) / MARGIN
        return in_reach and finished_trials(self._space, self._watch.parts) > self._stands

    def searched(self) -> Budget | None:
        """The budget with which the search can close by now."""
        trials = finished_trials(self._space, self._ledger.parts(self._watch.study.id))
        return {"search.trials": trials} if trials else None

    def affordable(self) -> Budget:
        """The budget of a retraining that there is time for; one candidate's at least. Of one that
        can close with what there is, all."""
        self._watch.refresh()
        best, retrain = self._best(), self._space.retrain
        self._candidates = [self._study(part) for part in best]
        if self.retrained() is not None:
            return {}
        have = self._worth(self.left()) - self._beside()

        def fits(space: Space) -> bool:
            return self._training(best[: space.retrain.top], space.retrain.seeds) <= have

        least = {"retrain.top": 1, "retrain.seeds": min(LEAST_SEEDS, retrain.seeds)}
        return most_runs(self._space, retrain.top, fits) or least

    def retrain_is_over(self) -> bool:
        """Whether retrain has to close now, for the winner to be measured by the deadline."""
        return self._look(self._retrain_is_over)

    def _retrain_is_over(self) -> bool:
        return self._worth(self.left()) <= self._beside() and self.retrained() is not None

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

        return most_runs(self._space, len(entries), is_over)

    def left(self) -> float:
        """Seconds until the deadline."""
        return (self.until - deadline.now()) / timedelta(seconds=1)

    def _look(self, is_over: Callable[[], bool]) -> bool:
        """What a look comes to; False: it is too early for the next one, or tells nothing."""
        if time.monotonic() < self._looked + LOOK_SECONDS:
            return False
        with suppress(StorageAway):
            late = is_over()
            self._looked = time.monotonic()
            return late
        return False

    def _best(self) -> list[Part]:
        """The last parts of the trials that are the candidates by now."""
        parts = {p.trial: p for p in self._watch.parts if p.state != State.RUNNING}
        best = ranked(trials_of(parts.values()))
        return [parts[entry["number"]] for entry in best[: self._space.retrain.top]]

    def _worth(self, seconds: float) -> float:
        """The core-seconds that this machine gives in a time to each process of a sweep."""
        runs = [run for study in self._candidates for run in self._ledger.parts(study.id)]
        return seconds / crowding([*self._watch.parts, *runs])

    def _beside(self) -> float:
        """Core-seconds of all that comes after the runs of the candidates."""
        known, evaluate = core_seconds_of(self._paths), self._space.evaluate
        weights = 2 + self._space.retrain.seeds  # files, each a pass over the test images
        passes = weights * (evaluate.nelbo_samples + 2) + evaluate.iw_samples
        share = self._counts["test"] / self._counts["train"]
        pace = max(map(_pace, self._watch.parts), default=0.0)
        guesses = {"evaluate": EVALUATE + passes * share * pace * FORWARD, "render": RENDER}
        rest: float = sum(known.get(stage, guess) for stage, guess in guesses.items())
        return MARGIN * (CHOOSE + rest)

    def _training(self, best: Iterable[Part], seeds: int) -> float:
        """Core-seconds, of the worker that has most to do, of what is left of these candidates'
        runs; and of measuring them."""
        runs, measured = [], 0.0
        check = FORWARD * self._counts["validation"] / self._counts["train"]
        for part in best:
            study = self._study(part)
            done = {run.trial: run for run in self._ledger.parts(study.id)}
            for seed in range(seeds):
                runs.append(_epochs_left(done.get(seed), study) * _pace(part))
                measured += check * _pace(part)
        start = MARGIN * START * any(runs)
        return start + TRAINING * _together(runs, self._workers) + measured

    def _study(self, part: Part) -> Study:
        return candidate_study(self._space, self._data, part.parameters or {})


@contextmanager
def timed(stage: str, paths: Paths) -> Iterator[None]:
    """Keeps how much a stage computes, for the next deadline; where there is no place, nothing."""
    started = time.process_time()
    yield
    taken = {**core_seconds_of(paths), stage: round(time.process_time() - started, 2)}
    with suppress(OSError):
        write_json(paths.seconds, taken)


def core_seconds_of(paths: Paths) -> dict[str, float]:
    """What the stages of a sweep took here when they ran last; none of a damaged file."""
    try:
        found = read_json(paths.seconds)
        return {str(stage): float(seconds) for stage, seconds in found.items()}
    except (OSError, UserError, AttributeError, TypeError, ValueError):
        return {}


def crowding(parts: Iterable[Part]) -> float:
    """How many times longer than on a core of its own anything takes, by the latest epochs."""
    records = [record for part in parts for record in part.curve if record.get("core_seconds")]
    latest = sorted(records, key=lambda record: record["ended_ms"])[-LATEST_EPOCHS:]
    ratios = [record["seconds"] / record["core_seconds"] for record in latest]
    return max(1.0, statistics.median(ratios)) if ratios else 1.0


def _pace(part: Part) -> float:
    """Core-seconds of an epoch; the first one has more to do, so it is the middle one."""
    known: list[float] = [each["core_seconds"] for each in part.curve if "core_seconds" in each]
    return statistics.median(known) if known else 0.0  # of kept ones


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
