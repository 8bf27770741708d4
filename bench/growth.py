"""What a part's bookkeeping costs when a search has many parts, beside plain Optuna's trials.

    python -m bench.growth

A part is planned (promoted, or proposed as a new trial), begun, reported and judged after each of
its epochs, and finished; nothing is trained. Printed are core-seconds a part after 100, 1 000 and
5 000 finished ones, and the ratio of the last to the first; of Optuna, which has no parts, a trial
of 6 epochs. Rows below have what of ours is a proposal, what a claim (the turn to plan, two looks
and the part begun), what a worker that comes at this size needs to begin, and what it then holds.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
import tracemalloc
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa

from pipeline.results.states import State
from pipeline.settings.hyperparameters import Choices, Value
from pipeline.settings.space import Space, load_space
from pipeline.study.identity import search_study
from pipeline.study.search.plan import Planner, Step
from pipeline.study.search.propose import Proposer
from pipeline.study.search.prune import should_prune
from pipeline.study.search.sampler import distribution
from pipeline.study.storage.ahead import PLAN, Turn
from pipeline.study.storage.claim import Claimant, Plan
from pipeline.study.storage.engine import open_storage, transaction
from pipeline.study.storage.ledger import Ledger
from pipeline.study.storage.rows import Part
from pipeline.study.storage.schema import TRIALS
from pipeline.study.watch import Watch

ROOT = Path(__file__).parents[1]
SIZES = (100, 1_000, 5_000)
EPOCHS, MEASURED = 6, 8
SAMPLERS = ("random", "tpe")
HELD = "it holds"
STUDY = "growth"


def nelbos(number: int, epochs: int = EPOCHS) -> list[float]:
    """A learning curve that depends on nothing but the number."""
    draw = random.Random(number)
    end = draw.gauss(250, 5)
    return [end + 60 / epoch + draw.gauss(0, 0.3) for epoch in range(1, epochs + 1)]


def draws(space: Space, count: int) -> list[dict[str, Value]]:
    """Random settings of a space."""
    proposer = Proposer(space.searched, space.search)
    return [proposer.draw(number) for number in range(count)]


class Ours:
    """The ledger, the planner and the proposer, as a worker uses them."""

    def __init__(self, space: Space, folder: Path, pruner: str):
        self._url = f"sqlite:///{folder}/{pruner}.db"
        self._ledger = Ledger(self._url)
        search = {**space.search.model_dump(), "pruner": pruner, "epochs": EPOCHS, "trials": 10**6}
        self._search = space.search.model_validate({**search, "rungs": None})
        self._space = space.model_copy(update={"search": self._search})
        self._study = search_study(self._space, "")
        self._ledger.open_study(self._study.id, STUDY, "search", {})
        self._turn = Turn(self._ledger, PLAN, self._study.id, "bench")
        self.spent: Counter[str] = Counter()  # core-seconds

    def start(self, sampler: str) -> None:
        """Begins as a new worker process does."""
        search = self._search.model_copy(update={"sampler": sampler})
        self._space = self._space.model_copy(update={"search": search})
        self._proposer = Proposer(self._space.searched, search)
        self._watch = Watch(self._ledger, self._study, self._space)
        self._watch.refresh()
        self.spent.clear()

    def holds(self) -> tuple[float, float]:
        """What a worker that comes needs for its first proposal, in core-seconds, and what it then
        holds of the study, in megabytes."""
        began = time.process_time()
        self._come()
        seconds = time.process_time() - began
        tracemalloc.start()
        self._come()
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return seconds, held / 1e6

    def _come(self) -> None:
        self.start("tpe")
        self._proposer.propose(self._watch.planner)

    @contextmanager
    def _spends(self, what: str) -> Iterator[None]:
        began = time.process_time()
        yield
        self.spent[what] += time.process_time() - began

    def fill(self, first: int, settings: list[dict[str, Value]]) -> None:
        """Writes finished parts, from the first number on, as a search would have them."""
        planner = Planner(self._space)
        planner.update(self._ledger.parts(self._study.id))
        made = []
        for chosen in settings:
            step = planner.next()
            assert step is not None
            made.append(_ended(self._search.epochs, planner, step, chosen))
            planner.update(made[-1:])
        rows = [
            {
                **{name: value for name, value in asdict(part).items() if name in TRIALS.c},
                "study": self._study.id,
                "parameters": json.dumps(part.parameters),
                "curve": json.dumps(part.curve),
                "result": json.dumps(part.result),
                "meta": "{}",
            }
            for part in made
        ]
        engine = open_storage(self._url)
        with transaction(engine) as db:
            db.execute(sa.insert(TRIALS), rows)
        engine.dispose()

    def trial(self) -> None:
        """One part, from its plan to its end."""
        watch = self._watch
        with self._spends("claim"):
            watch.refresh()
            step = watch.planner.next()
            assert step is not None
            self._turn.keep()
        with self._spends("propose"):
            chosen = self._proposer.propose(watch.planner) if step.is_new else None
        self.spent["proposals"] += step.is_new
        part = _ended(EPOCHS, watch.planner, step, chosen)
        planned = {name: getattr(part, name) for name in Plan.__dataclass_fields__ if name
                   not in ("curve", "reopened")}  # fmt: skip
        plan = Plan(**planned, curve=part.curve[: part.since], reopened=0)
        with self._spends("claim"):
            lease = self._ledger.begin(self._study.id, plan, Claimant("bench"))
            watch.refresh()
            self._turn.leave()
        assert lease
        for epoch in range(part.since + 1, part.until + 1):
            self._ledger.report(lease, part.curve[:epoch])
            if self._search.pruner == "median":
                values = [record["nelbo_nats"] for record in part.curve[:epoch]]
                should_prune(self._search, values, watch.planner.curves(lease.number), 1)
        self._ledger.finish(lease, part.state, part.curve, part.result)


def _ended(epochs: int, planner: Planner, step: Step, chosen: dict[str, Value] | None) -> Part:
    """The next part as it ends."""
    before = None if step.is_new else planner.latest(step.trial)
    parameters = before.parameters if before else chosen or {}
    until = step.until if before else planner.first_pause(parameters or {})
    curve = _records(nelbos(step.trial)[:until])
    return Part(
        study="",
        number=step.number,
        trial=step.trial,
        since=step.since,
        until=until,
        starts=step.place.starts,
        follows=step.place.follows,
        cost=1 + step.trial % 7,
        epochs=until,
        state=State.COMPLETE if until == epochs else State.PAUSED,
        parameters=parameters,
        curve=curve,
        result={"nelbo_nats": curve[-1]["nelbo_nats"]},
        finished_ms=1,
    )


class PlainOptuna:
    """`study.ask` and `study.tell` on a storage of Optuna's own."""

    def __init__(self, space: Space, storage: Any):
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._storage = storage
        optuna.create_study(storage=storage, study_name=STUDY)
        self._space = space.searched
        self._distributions = {name: distribution(d) for name, d in space.searched.items()}
        self.start("random")

    def start(self, sampler: str) -> None:
        """Begins as a new worker process does."""
        samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
        self._study = optuna.load_study(
            storage=self._storage, study_name=STUDY, sampler=samplers[sampler](),
            pruner=optuna.pruners.MedianPruner(),
        )  # fmt: skip

    def fill(self, first: int, settings: list[dict[str, Value]]) -> None:
        """Adds finished trials."""
        for number, chosen in enumerate(settings, first):
            self._study.add_trial(
                optuna.trial.create_trial(
                    params=self._encoded(chosen),
                    distributions=self._distributions,
                    intermediate_values=dict(enumerate(nelbos(number), 1)),
                    value=nelbos(number)[-1],
                )
            )

    def _encoded(self, chosen: dict[str, Value]) -> dict[str, Any]:
        return {
            name: json.dumps(value) if isinstance(self._space[name], Choices) else value
            for name, value in chosen.items()
        }

    def trial(self) -> None:
        trial = self._study.ask(self._distributions)
        values = nelbos(trial.number)
        for epoch, value in enumerate(values, 1):
            trial.report(value, epoch)
            trial.should_prune()
        self._study.tell(trial, values[-1])


class PlainOptunaSQLite(PlainOptuna):
    """Filled by rows, as Optuna needs 20 core-milliseconds to add a trial."""

    def fill(self, first: int, settings: list[dict[str, Value]]) -> None:
        """Writes finished trials."""
        from optuna.storages._rdb import models

        rows: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for number, chosen in enumerate(settings, first):
            trial = {"trial_id": number + 1}
            values = nelbos(number)
            rows[models.TrialModel].append(
                {
                    **trial,
                    "number": number,
                    "study_id": 1,
                    "state": optuna.trial.TrialState.COMPLETE,
                }
            )
            rows[models.TrialValueModel].append(
                {**trial, "objective": 0, "value": values[-1], "value_type": "FINITE"}
            )
            rows[models.TrialIntermediateValueModel] += [
                {**trial, "step": step, "intermediate_value": value,
                 "intermediate_value_type": "FINITE"}
                for step, value in enumerate(values, 1)
            ]  # fmt: skip
            for name, value in self._encoded(chosen).items():
                kind = self._distributions[name]
                rows[models.TrialParamModel].append(
                    {**trial, "param_name": name, "param_value": kind.to_internal_repr(value),
                     "distribution_json": optuna.distributions.distribution_to_json(kind)}
                )  # fmt: skip
        engine = sa.create_engine(self._storage)
        with engine.begin() as db:
            for model, records in rows.items():
                db.execute(sa.insert(model.__table__), records)
        engine.dispose()


def _records(values: list[float]) -> list[dict[str, float]]:
    return [{"epoch": epoch, "nelbo_nats": value} for epoch, value in enumerate(values, 1)]


def contestants(space: Space, folder: Path) -> Iterator[tuple[str, Any]]:
    """The ways to keep a study, each in a fresh file."""
    from optuna.storages.journal import JournalFileBackend

    yield "this project, rungs", Ours(space, folder, "rungs")
    yield "this project, median pruner", Ours(space, folder, "median")
    journal = optuna.storages.JournalStorage(JournalFileBackend(f"{folder}/journal.log"))
    yield "Optuna, journal file", PlainOptuna(space, journal)
    yield "Optuna, SQLite", PlainOptunaSQLite(space, f"sqlite:///{folder}/optuna.db")


def measure(contestant: Any, settings: list[dict[str, Value]]) -> dict[str, list[float]]:
    """Core-seconds a trial by sampler at every size; a worker's first trial is not counted.

    Of ours also what of it is what, with TPE.
    """
    costs: dict[str, list[float]] = defaultdict(list)
    filled = 0
    for size in SIZES:
        contestant.fill(filled, settings[filled:size])
        filled = size
        for sampler in SAMPLERS:
            contestant.start(sampler)
            contestant.trial()
            if isinstance(contestant, Ours):
                contestant.spent.clear()
            before = time.process_time()
            for _ in range(MEASURED):
                contestant.trial()
            costs[sampler].append((time.process_time() - before) / MEASURED)
            filled += 1 + MEASURED
        if isinstance(contestant, Ours):
            spent = contestant.spent
            costs["a proposal"].append(spent["propose"] / max(1, spent["proposals"]))
            costs["a claim"].append(spent["claim"] / MEASURED)
            seconds, megabytes = contestant.holds()
            costs["a worker comes"].append(seconds)
            costs[HELD].append(megabytes)
    return costs


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    space = load_space(ROOT, "fashion")
    settings = draws(space, SIZES[-1])
    heads = " | ".join(f"{size:,}".replace(",", " ") for size in SIZES)
    print(f"| storage | sampler | {heads} | ratio |\n|---|---|{'---|' * (len(SIZES) + 1)}")
    with tempfile.TemporaryDirectory() as folder:
        for name, contestant in contestants(space, Path(folder)):
            for sampler, costs in measure(contestant, settings).items():
                unit, factor = ("MB", 1) if sampler == HELD else ("ms", 1000)
                cells = " | ".join(f"{factor * cost:.1f} {unit}" for cost in costs)
                ratio = costs[-1] / costs[0]
                print(f"| {name} | {sampler} | {cells} | {ratio:.1f} |", flush=True)


if __name__ == "__main__":
    main()
