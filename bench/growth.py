"""What a trial's bookkeeping costs when many trials are finished, beside plain Optuna.

    python -m bench.growth

A trial is claimed, proposed, reported and judged after each of 6 epochs, and finished; nothing is
trained. Printed are core-seconds a trial after 100, 1 000 and 5 000 finished ones, and the ratio of
the last to the first.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa

from bench.curves import ROOT, draws
from pipeline.config import Space, load_space
from pipeline.hyperparameters import Choices, Value
from pipeline.study.history import History
from pipeline.study.ledger import Ledger
from pipeline.study.propose import Proposer, distribution
from pipeline.study.prune import should_prune
from pipeline.study.storage import TRIALS, open_storage, transaction

SIZES = (100, 1_000, 5_000)
EPOCHS, MEASURED = 6, 8
SAMPLERS = ("random", "tpe")
STUDY = "growth"


def nelbos(number: int) -> list[float]:
    """A learning curve that depends on nothing but the number."""
    draw = random.Random(number)
    end = draw.gauss(250, 5)
    return [end + 60 / epoch + draw.gauss(0, 0.3) for epoch in range(1, EPOCHS + 1)]


class Ours:
    """The ledger and the proposer, as a worker uses them."""

    def __init__(self, space: Space, folder: Path):
        self._url = f"sqlite:///{folder}/ledger.db"
        self._ledger = Ledger(self._url)
        self._ledger.open_study(STUDY, STUDY, "search", {})
        self._space = space

    def start(self, sampler: str) -> None:
        """Begins as a new worker process does."""
        self._search = self._space.search.model_copy(update={"sampler": sampler, "epochs": EPOCHS})
        self._history = History(self._ledger, STUDY)
        self._proposer = Proposer(self._space.searched, self._search, self._history)

    def fill(self, first: int, settings: list[dict[str, Value]]) -> None:
        """Writes finished trials."""
        rows = [
            {
                "study": STUDY,
                "number": number,
                "state": "complete",
                "parameters": json.dumps(chosen),
                "curve": json.dumps(_records(nelbos(number))),
                "result": json.dumps({"nelbo_nats": nelbos(number)[-1]}),
                "started_ms": 0,
            }
            for number, chosen in enumerate(settings, first)
        ]
        engine = open_storage(self._url)
        with transaction(engine) as db:
            db.execute(sa.insert(TRIALS), rows)
        engine.dispose()

    def trial(self) -> None:
        lease = self._ledger.claim(
            STUDY, budget=10**6, parallelism=self._search.parallelism, owner="bench", meta={}
        )
        assert lease
        self._ledger.propose(lease, self._proposer.propose(lease.number))
        values = nelbos(lease.number)
        for epoch in range(1, EPOCHS + 1):
            self._ledger.report(lease, _records(values[:epoch]))
            others = self._history.curves(lease.number - self._search.parallelism)
            should_prune(self._search, lease.number, values[:epoch], others, 1)
        result = {"nelbo_nats": values[-1]}
        self._ledger.finish(lease, "complete", _records(values), result)


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
    """The three ways to keep a study, each in a fresh file."""
    from optuna.storages.journal import JournalFileBackend

    yield "this project, SQLite", Ours(space, folder)
    journal = optuna.storages.JournalStorage(JournalFileBackend(f"{folder}/journal.log"))
    yield "Optuna, journal file", PlainOptuna(space, journal)
    yield "Optuna, SQLite", PlainOptunaSQLite(space, f"sqlite:///{folder}/optuna.db")


def measure(contestant: Any, settings: list[dict[str, Value]]) -> dict[str, list[float]]:
    """Core-seconds a trial by sampler at every size; a worker's first trial is not counted."""
    costs: dict[str, list[float]] = {sampler: [] for sampler in SAMPLERS}
    filled = 0
    for size in SIZES:
        contestant.fill(filled, settings[filled:size])
        filled = size
        for sampler in SAMPLERS:
            contestant.start(sampler)
            contestant.trial()
            before = time.process_time()
            for _ in range(MEASURED):
                contestant.trial()
            costs[sampler].append((time.process_time() - before) / MEASURED)
            filled += 1 + MEASURED
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
                cells = " | ".join(f"{1000 * cost:.0f} ms" for cost in costs)
                ratio = costs[-1] / costs[0]
                print(f"| {name} | {sampler} | {cells} | {ratio:.1f} |", flush=True)


if __name__ == "__main__":
    main()
