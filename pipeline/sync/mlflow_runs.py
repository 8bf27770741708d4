"""The ledger and the stages' outputs as MLflow records, so that a deleted store can be rebuilt and
an interrupted one brought up to date."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.paths import Paths
from pipeline.results.states import Kind, State
from pipeline.settings.space import Space
from pipeline.study.identity import candidate_study
from pipeline.study.storage.arithmetic import summary as arithmetic_of
from pipeline.study.storage.ledger import Ledger
from pipeline.study.storage.rows import Mark, Trial
from pipeline.study.storage.view import View
from pipeline.sync import mlflow_columns as columns
from pipeline.sync.outputs import Outputs, artifacts, dataset, description
from pipeline.sync.system import samples_of
from pipeline.tracking import views as prepared
from pipeline.tracking.records import Run, Status
from pipeline.tracking.supersede import TOKEN_TAG

STATUS: dict[State, Status] = {
    State.COMPLETE: "FINISHED",
    State.PRUNED: "FINISHED",  # as it was to be: MLflow marks what was killed as a failure
    State.PAUSED: "FINISHED",
    State.FAILED: "FAILED",
}


@dataclass(frozen=True)
class Candidate:
    """A setting that is retrained, and the study of its runs."""

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

    @property
    def studies(self) -> dict[str, dict[str, Any]]:
        """The specifications of the searches that the ledger knows, oldest first."""
        return self._ledger.studies(self.space.name, Kind.SEARCH)

    def changes(self) -> list[Run]:
        """The runs that may differ from those of the last call, at first all; parents first."""
        outputs = Outputs.read(self.paths, self.done)
        same, self._outputs = outputs == self._outputs, outputs
        found: list[Run] = []
        self.active = None
        for study, spec in self.studies.items():
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
                self._trial_run(study, spec, trial, outputs.manifest)
                for trial in self._view.trials(study)
                if trial.number in moved[study]
            ]
            for candidate in candidates:  # who has won may be new
                found += self._candidate_runs(study, candidate, outputs)
        return found

    def views(self) -> list[prepared.View]:
        """Of the search that was worked on last, as of the last `changes`."""
        if not self.studies:
            return []
        study = max(
            self.studies, key=lambda each: max(map(_started, self._view.trials(each)), default=0)
        )
        searched = self.studies[study]["searched"]
        return prepared.views_of(study, searched, self._ledger.created_ms(study))

    def forget(self) -> None:
        """Makes the next `changes` return all runs."""
        self._view = View(self._ledger)
        self._outputs = None

    def marks(self) -> dict[str, Mark]:
        """The version of everything that belongs in MLflow, by the key of its run."""
        outputs = Outputs.read(self.paths, self.done)
        searched = self.studies
        retrained = dict.fromkeys(_ids(self._candidates(outputs)), self.space.retrain.seeds)
        found = {
            self._trial_key(study, number): mark
            for study, most in {**dict.fromkeys(searched), **retrained}.items()
            for number, mark in self._ledger.marks(study).items()
            if most is None or number < most
        }
        if outputs.best is not None and outputs.figures() and outputs.best["study"] in searched:
            found[self.key(outputs.best["study"])] = (0, outputs.digest(), 0)
        return found

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
        begun = self._ledger.studies(self.space.name, Kind.CANDIDATE)
        entries = outputs.best["ranking"][: self.space.retrain.top]
        data = outputs.manifest["sha256"]
        found = [
            Candidate(entry, candidate_study(self.space, data, entry["parameters"]).id)
            for entry in entries
        ]
        return [candidate for candidate in found if candidate.study in begun]

    def _at_work(self, studies: Iterable[str]) -> bool:
        trials = (trial for study in studies for trial in self._view.trials(study))
        return any(trial.state == State.RUNNING and trial.owner is not None for trial in trials)

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
        both = [*trials, *runs]
        figures = outputs.figures() if outputs else {}
        known = bool(figures)  # else these outputs are not here, or not yet: MLflow keeps its own
        winner = outputs.winner if known and outputs else None
        # The time of the retraining: it stays the same when more trials extend the study.
        retrained = max(map(columns.ended, runs), default=0)
        return Run(
            key=self.key(study),
            name=f"study {study}",
            parent=None,
            status="RUNNING" if self.live else "FINISHED",
            start_ms=min(map(_started, both)),
            end_ms=None if self.live else max(map(columns.ended, both)),
            params=settings | domains | {"likelihood": spec["model"]["likelihood"]},
            figures=[*columns.best(trials), *columns.points(figures, retrained)],
            figures_are_all=known,
            stream=samples_of(self.samples, study),
            tags={
                "kind": "study",
                "study": study,
                "data_sha256": spec["data"],
                "arithmetic": arithmetic_of(
                    meta for trial in both if trial.curve for meta in trial.metas
                ),
                **columns.origin(self.space.name, max(both, key=_started).meta),
                **({"winner": _of(winner["number"])} if winner else {}),
                **_night(both),
            },
            artifacts=artifacts(self.paths, outputs.done) if outputs else {},
            description=description(self.space, study, outputs) if known else "",
            first_description=description(self.space, study, None),
            dataset=dataset(outputs.manifest) if outputs and outputs.manifest else None,
            # While it is live it states that it runs, and what comes of it is yet to be sent.
            mark=[0, outputs.digest(), 0] if outputs and known and not self.live else None,
        )

    def _trial_run(
        self, study: str, spec: dict[str, Any], trial: Trial, manifest: dict[str, Any] | None
    ) -> Run:
        return self._run_of(
            trial,
            manifest=manifest if manifest and manifest["sha256"] == spec["data"] else None,
            name=f"trial {trial.number:04d}",
            parent=study,
            parameters={**spec["fixed"], **(trial.parameters or {})},
            tags={"kind": "trial", "study": study, "data_sha256": spec["data"]},
        )

    def _candidate_runs(self, parent: str, candidate: Candidate, outputs: Outputs) -> Iterator[Run]:
        assert outputs.manifest is not None
        for trial in self._retrained(candidate.study):
            yield self._run_of(
                trial,
                manifest=outputs.manifest,
                name=f"{_of(candidate.entry['number'])} seed {trial.number}",
                parent=parent,
                parameters=self.space.hyperparameters(candidate.entry["parameters"]).model_dump(),
                tags={
                    "kind": Kind.CANDIDATE,
                    "study": candidate.study,
                    "data_sha256": outputs.manifest["sha256"],
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
        manifest: dict[str, Any] | None,  # of its data, if that is here
        name: str,
        parent: str,
        parameters: dict[str, Any],
        tags: dict[str, str],
    ) -> Run:
        held = trial.state == State.RUNNING and trial.owner is not None and self.live
        start = trial.started_ms
        metrics = [point for record in trial.curve for point in columns.epoch_points(record, start)]
        state = trial.state if trial.state != State.RUNNING or held else "interrupted"
        mark = self._view.mark(trial)
        again = mark[0] > 1  # then a reason of before may be there, and is no longer so
        reason = {"reason": trial.reason or ""} if trial.reason or again else {}
        lineage = {key: str(value) for key, value in trial.meta.items() if key != "source"}
        if trial.kept_from:
            lineage["kept"] = trial.kept_from
        if "arithmetic" in lineage:
            lineage["arithmetic"] = arithmetic_of(trial.metas)
        return Run(
            key=self._trial_key(trial.study, trial.number),
            name=name,
            parent=self.key(parent),
            status="RUNNING" if held else STATUS.get(trial.state, "KILLED"),
            start_ms=start,
            end_ms=None if held else columns.ended(trial),
            params=columns.params(parameters),
            metrics=metrics,
            curves=frozenset(columns.CURVES),
            figures=columns.points(columns.kept(trial, manifest), columns.ended(trial)),
            figures_are_all=manifest is not None or trial.result is None,
            dataset=dataset(manifest) if manifest else None,
            tags={
                **tags,
                **columns.origin(self.space.name, trial.meta),
                "number": str(trial.number),
                "state": state,
                TOKEN_TAG: str(mark[0]),
                **reason,
                **lineage,
            },
            mark=list(mark),
        )


def _night(trials: list[Trial]) -> dict[str, str]:
    """The last night that has added to a study, as a tag."""
    nights = [str(trial.meta["night"]) for trial in trials if "night" in trial.meta]
    return {"night": max(nights)} if nights else {}


def _ids(candidates: list[Candidate]) -> list[str]:
    return [candidate.study for candidate in candidates]


def _started(trial: Trial) -> int:
    return trial.started_ms


def _of(number: int | None) -> str:
    """A candidate by its trial: its place in the ranking changes when trials are added."""
    return "candidate" if number is None else f"candidate {number:04d}"
