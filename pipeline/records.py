"""The ledger and the stages' outputs as MLflow records, so that a deleted store can be rebuilt and
an interrupted one brought up to date."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import Space
from pipeline.paths import Paths
from pipeline.results import Outputs, artifacts, dataset, description
from pipeline.study.identity import candidate_study
from pipeline.study.ledger import Ledger, Mark, Trial
from pipeline.study.tables import CURVE_COLUMNS
from pipeline.study.view import View
from pipeline.system import system_metrics
from pipeline.tracking.run import Metric, Run, Status

# What of an epoch becomes a curve in MLflow.
CURVES = (*CURVE_COLUMNS, "seconds")
STATUS: dict[str, Status] = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}


@dataclass(frozen=True)
class Candidate:
    """A setting that is retrained: its place in the search's ranking, and the study of its runs."""

    index: int
    entry: dict[str, Any]  # number, nelbo_nats and parameters as the search has them
    study: str


class Sweep:
    """A sweep as its ledger and its outputs show it.

    `live`: its workers are at work. `done`: the last stage whose output counts.
    """

    def __init__(
        self,
        space: Space,
        paths: Paths,
        ledger: Ledger,
        *,
        live: bool = False,
        done: str = "render",
    ):
        self.space, self.paths = space, paths
        self.live, self.done = live, done
        self._ledger = ledger
        self._view = View(ledger)
        self._outputs: Outputs | None = None
        self._created: dict[str, int] = {}
        self.active: str | None = None  # the study that was worked on at the last `changes`

    @property
    def samples(self) -> Path:
        """Where the system metrics of the sweep are."""
        return self.paths.state / "system" / f"{self.space.name}.jsonl"

    def changes(self) -> list[Run]:
        """The runs that may differ from those of the last call, at first all; parents first."""
        outputs = Outputs.read(self.paths, self.done)
        same, self._outputs = outputs == self._outputs, outputs
        found: list[Run] = []
        self.active = None
        for study, spec in self._ledger.studies(self.space.name, "search").items():
            current = outputs.best is not None and outputs.best["study"] == study
            candidates = self._candidates(outputs) if current else []
            moved = {each: self._view.refresh(each) for each in (study, *_ids(candidates))}
            if self._at_work(moved):
                self.active = study
            if not any(moved.values()) and (same or not current):
                continue
            if any(self._view.trials(each) for each in moved):
                found.append(self._study_run(study, spec, candidates, outputs if current else None))
            found += [
                self._trial_run(study, spec, trial)
                for trial in self._view.trials(study)
                if trial.number in moved[study]
            ]
            for candidate in candidates:  # who has won may be new
                found += self._candidate_runs(study, candidate, outputs)
        return found

    def forget(self) -> None:
        """Makes the next `changes` return all runs."""
        self._view = View(self._ledger)
        self._outputs = None

    def marks(self) -> dict[str, Mark]:
        """The version of every trial that belongs in MLflow, by the key of its run."""
        outputs = Outputs.read(self.paths, self.done)
        searched = self._ledger.studies(self.space.name, "search")
        retrained = dict.fromkeys(_ids(self._candidates(outputs)), self.space.retrain.seeds)
        return {
            self._trial_key(study, number): mark
            for study, most in {**dict.fromkeys(searched), **retrained}.items()
            for number, mark in self._ledger.marks(study).items()
            if most is None or number < most
        }

    def key(self, study: str) -> str:
        """The identity of a study in MLflow: the same sweep of another clone is another one."""
        if study not in self._created:
            self._created[study] = self._ledger.created_ms(study)
        return f"{study}.{self._created[study]}"

    def _trial_key(self, study: str, number: int) -> str:
        return f"{self.key(study)}/{number:05d}"

    def _candidates(self, outputs: Outputs) -> list[Candidate]:
        """The candidates of the current study whose retraining has begun."""
        if outputs.best is None or outputs.manifest is None:
            return []
        begun = self._ledger.studies(self.space.name, "candidate")
        entries = outputs.best["ranking"][: self.space.retrain.top]
        data = outputs.manifest["sha256"]
        found = [
            Candidate(index, entry, candidate_study(self.space, data, entry["parameters"]).id)
            for index, entry in enumerate(entries)
        ]
        return [candidate for candidate in found if candidate.study in begun]

    def _at_work(self, studies: Iterable[str]) -> bool:
        trials = (trial for study in studies for trial in self._view.trials(study))
        return any(trial.state == "running" and trial.owner is not None for trial in trials)

    def _study_run(
        self,
        study: str,
        spec: dict[str, Any],
        candidates: list[Candidate],
        outputs: Outputs | None,
    ) -> Run:
        settings = {f"search.{key}": str(value) for key, value in spec["search"].items()}
        domains = {f"space.{name}": str(domain) for name, domain in spec["searched"].items()}
        trials = self._view.trials(study)
        runs = [run for each in _ids(candidates) for run in self._retrained(each)]
        measured = flat(outputs.metrics) if outputs and outputs.metrics else {}
        # The time of the retraining: it stays the same when more trials extend the study.
        retrained = max((_ended(run) for run in runs), default=0)
        return Run(
            key=self.key(study),
            name=f"study {study}",
            parent=None,
            status="RUNNING" if self.live else "FINISHED",
            start_ms=min(trial.started_ms for trial in [*trials, *runs]),
            end_ms=None if self.live else max(_ended(trial) for trial in [*trials, *runs]),
            params=settings | domains | {"likelihood": spec["model"]["likelihood"]},
            metrics=[
                *_best_so_far(trials),
                *_points(measured, 0, retrained),
                *system_metrics(self.samples, study),
            ],
            tags={
                "kind": "study",
                "study": study,
                "data_sha256": spec["data"],
                "mlflow.source.name": f"search_spaces/{self.space.name}.yaml",
            },
            artifacts=artifacts(self.paths, outputs.done) if outputs else {},
            description=description(self.space, study, outputs),
            dataset=dataset(outputs.manifest) if outputs and outputs.manifest else None,
        )

    def _trial_run(self, study: str, spec: dict[str, Any], trial: Trial) -> Run:
        return self._run_of(
            trial,
            name=f"trial {trial.number:04d}",
            parent=study,
            parameters={**spec["fixed"], **(trial.parameters or {})},
            tags={"kind": "trial", "study": study, "data_sha256": spec["data"]},
        )

    def _candidate_runs(self, parent: str, candidate: Candidate, outputs: Outputs) -> Iterator[Run]:
        assert outputs.manifest is not None
        won = outputs.winner is not None and outputs.winner["candidate"] == candidate.index
        for trial in self._retrained(candidate.study):
            yield self._run_of(
                trial,
                name=f"candidate {candidate.index} seed {trial.number}",
                parent=parent,
                parameters=self.space.hyperparameters(candidate.entry["parameters"]).model_dump(),
                tags={
                    "kind": "candidate",
                    "study": candidate.study,
                    "data_sha256": outputs.manifest["sha256"],
                    "candidate": str(candidate.index),
                    "winner": str(won).lower(),
                    "search_study": parent,
                    "search_trial": str(candidate.entry["number"]),
                },
            )

    def _retrained(self, study: str) -> list[Trial]:
        return self._view.trials(study)[: self.space.retrain.seeds]

    def _run_of(
        self,
        trial: Trial,
        *,
        name: str,
        parent: str,
        parameters: dict[str, Any],
        tags: dict[str, str],
    ) -> Run:
        held = trial.state == "running" and trial.owner is not None and self.live
        metrics = [point for record in trial.curve for point in _epoch_points(record)]
        if trial.result:
            summary = {f"best.{key}": trial.result[key] for key in ("nelbo_nats", "best_epoch")}
            metrics += _points(summary, trial.result["best_epoch"], _ended(trial))
        state = trial.state if trial.state != "running" or held else "interrupted"
        reason = {"reason": trial.reason} if trial.reason else {}
        lineage = {key: str(value) for key, value in trial.meta.items()}
        return Run(
            key=self._trial_key(trial.study, trial.number),
            name=name,
            parent=self.key(parent),
            status="RUNNING" if held else STATUS.get(trial.state, "KILLED"),
            start_ms=trial.started_ms,
            end_ms=None if held else _ended(trial),
            params={key: str(value) for key, value in parameters.items() if value is not None},
            metrics=metrics,
            tags={**tags, "number": str(trial.number), "state": state, **reason, **lineage},
            mark=list(self._view.mark(trial)),
        )


def _ids(candidates: list[Candidate]) -> list[str]:
    return [candidate.study for candidate in candidates]


def _ended(trial: Trial) -> int:
    """When a trial ended or was last heard of."""
    last = trial.curve[-1]["ended_ms"] if trial.curve else trial.started_ms
    return trial.finished_ms or last


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Nested metrics as `first_epoch.nelbo_nats`."""
    found: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        elif isinstance(value, int | float):
            found[prefix + key] = float(value)
    return found


def _epoch_points(record: dict[str, Any]) -> Iterator[Metric]:
    for name in CURVES:
        if name in record:
            yield Metric(name, float(record[name]), record["epoch"], record["ended_ms"])


def _best_so_far(trials: list[Trial]) -> Iterator[Metric]:
    """The best value of the search against the trial number, stamped with the trial's end.

    It ends before the first unfinished trial: a point once sent cannot be taken back.
    """
    best = float("inf")
    for trial in trials:
        if trial.state == "running":
            return
        if trial.state == "complete" and trial.result and trial.result["nelbo_nats"] < best:
            best = trial.result["nelbo_nats"]
            yield Metric("search.best_nelbo_nats", best, trial.number, trial.finished_ms or 0)


def _points(values: dict[str, Any], step: int, timestamp_ms: int) -> list[Metric]:
    return [Metric(key, float(value), step, timestamp_ms) for key, value in values.items()]
