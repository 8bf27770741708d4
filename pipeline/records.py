"""The ledger and the stages' outputs as MLflow records: a pure function, so that a deleted store
can be rebuilt and an interrupted one brought up to date."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import Space
from pipeline.paths import Paths, read_json
from pipeline.seeds import digest
from pipeline.study.identity import candidate_study
from pipeline.study.ledger import Ledger, Trial
from pipeline.study.tables import CURVE_COLUMNS
from pipeline.tracking.run import Dataset, Metric, Run, Status

# What of an epoch becomes a curve in MLflow.
CURVES = (*CURVE_COLUMNS, "mu_std", "log_var_mean", "seconds")
STATUS: dict[str, Status] = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}


@dataclass(frozen=True)
class Outputs:
    """What the stages have left on disk; None where a stage has not run."""

    manifest: dict[str, Any] | None
    best: dict[str, Any] | None
    winner: dict[str, Any] | None
    metrics: dict[str, Any] | None

    @classmethod
    def read(cls, paths: Paths) -> Outputs:
        """The outputs of a sweep as they are now."""

        def read(path: Path) -> dict[str, Any] | None:
            return read_json(path) if path.exists() else None

        return cls(
            read(paths.prepare / "manifest.json"),
            read(paths.search / "best.json"),
            read(paths.retrain / "winner.json"),
            read(paths.evaluate / "metrics.json"),
        )


@dataclass(frozen=True)
class Sweep:
    """A sweep as its ledger and its outputs show it. `live`: its workers are at work."""

    space: Space
    paths: Paths
    ledger: Ledger
    live: bool

    def records(self) -> Iterator[Run]:
        """All its runs, parents first."""
        outputs = Outputs.read(self.paths)
        for study, spec in self.ledger.studies(self.space.name, "search").items():
            trials = self.ledger.trials(study)
            current = outputs.best is not None and outputs.best["study"] == study
            retrained = list(self._candidate_runs(study, outputs)) if current else []
            runs = [*(self._trial_run(study, spec, trial) for trial in trials), *retrained]
            if runs:
                yield self._study_run(study, spec, trials, runs, outputs if current else None)
                yield from runs

    def key(self, study: str) -> str:
        """The identity of a study in MLflow: the same sweep of another clone is another one."""
        return f"{study}.{self.ledger.created_ms(study)}"

    def _study_run(
        self,
        study: str,
        spec: dict[str, Any],
        trials: list[Trial],
        runs: list[Run],
        outputs: Outputs | None,
    ) -> Run:
        settings = {f"search.{key}": str(value) for key, value in spec["search"].items()}
        domains = {f"space.{name}": str(domain) for name, domain in spec["searched"].items()}
        ended = max(run.end_ms or run.start_ms for run in runs)
        measured = flat(outputs.metrics) if outputs and outputs.metrics else {}
        # The time of the retraining: it stays the same when more trials extend the study.
        retrained = max((r.end_ms or 0 for r in runs if r.tags["kind"] == "candidate"), default=0)
        return Run(
            key=self.key(study),
            name=f"study {study}",
            parent=None,
            status="RUNNING" if self.live else "FINISHED",
            start_ms=min(run.start_ms for run in runs),
            end_ms=None if self.live else ended,
            params=settings | domains | {"likelihood": spec["model"]["likelihood"]},
            metrics=[*_best_so_far(trials), *_points(measured, 0, retrained)],
            tags={
                "kind": "study",
                "study": study,
                "data_sha256": spec["data"],
                "mlflow.source.name": f"search_spaces/{self.space.name}.yaml",
            },
            artifacts=_artifacts(self.paths) if outputs else {},
            description=_description(self.space, study, outputs),
            dataset=_dataset(outputs.manifest) if outputs and outputs.manifest else None,
        )

    def _trial_run(self, study: str, spec: dict[str, Any], trial: Trial) -> Run:
        return self._run_of(
            trial,
            name=f"trial {trial.number:04d}",
            parent=study,
            parameters={**spec["fixed"], **(trial.parameters or {})},
            tags={"kind": "trial", "study": study, "data_sha256": spec["data"]},
        )

    def _candidate_runs(self, parent: str, outputs: Outputs) -> Iterator[Run]:
        assert outputs.best is not None
        if outputs.manifest is None:
            return
        data = outputs.manifest["sha256"]
        for index, entry in enumerate(outputs.best["ranking"][: self.space.retrain.top]):
            study = candidate_study(self.space, data, entry["parameters"])
            won = outputs.winner is not None and outputs.winner["candidate"] == index
            for trial in self.ledger.trials(study.id, 0, study.budget - 1):
                yield self._run_of(
                    trial,
                    name=f"candidate {index} seed {trial.number}",
                    parent=parent,
                    parameters=self.space.hyperparameters(entry["parameters"]).model_dump(),
                    tags={
                        "kind": "candidate",
                        "study": study.id,
                        "data_sha256": data,
                        "candidate": str(index),
                        "winner": str(won).lower(),
                        "search_trial": str(entry["number"]),
                    },
                )

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
        last = trial.curve[-1]["ended_ms"] if trial.curve else trial.started_ms
        ended = trial.finished_ms or last
        if trial.result:
            summary = {f"best.{key}": trial.result[key] for key in ("nelbo_nats", "best_epoch")}
            metrics += _points(summary, trial.result["best_epoch"], ended)
        state = trial.state if trial.state != "running" or held else "interrupted"
        reason = {"reason": trial.reason} if trial.reason else {}
        lineage = {key: str(value) for key, value in trial.meta.items()}
        return Run(
            key=f"{self.key(trial.study)}/{trial.number:05d}",
            name=name,
            parent=self.key(parent),
            status="RUNNING" if held else STATUS.get(trial.state, "KILLED"),
            start_ms=trial.started_ms,
            end_ms=None if held else ended,
            params={key: str(value) for key, value in parameters.items() if value is not None},
            metrics=metrics,
            tags={**tags, "number": str(trial.number), "state": state, **reason, **lineage},
        )


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


def _artifacts(paths: Paths) -> dict[str, Path]:
    found = {
        "search/trials.csv": paths.search / "trials.csv",
        "search/curves.csv": paths.search / "curves.csv",
        "retrain/candidates.csv": paths.retrain / "candidates.csv",
        "retrain/history.csv": paths.retrain / "history.csv",
        "evaluate/metrics.json": paths.evaluate / "metrics.json",
        "report.html": paths.render / "report.html",
    }
    if winner_model(paths).exists():
        found["model"] = winner_model(paths)
    for figure in sorted(paths.render.glob("*.png")):
        found[f"figures/{figure.name}"] = figure
    return {name: path for name, path in found.items() if path.exists()}


def winner_model(paths: Paths) -> Path:
    """The folder of the winner as an MLflow model, named by the winner's content."""
    return paths.state / "models" / winner_digest(paths)


def winner_digest(paths: Paths) -> str:
    """What identifies the winner: the record of its model and its values on all seeds."""
    files = (paths.retrain / "config.json", paths.retrain / "winner.json")
    return digest([file.read_text(encoding="utf-8") if file.exists() else "" for file in files])


def _description(space: Space, study: str, outputs: Outputs | None) -> str:
    lines = [f"Sweep **{space.name}**, study `{study}`."]
    if outputs and outputs.winner:
        chosen = ", ".join(f"{k} = {v}" for k, v in outputs.winner["parameters"].items())
        lines.append(f"Winner: trial {outputs.winner['number']} ({chosen}).")
        lines.append(outputs.winner["sentence"])
    if outputs and outputs.metrics:
        figures = outputs.metrics
        lines.append(
            f"Test NELBO {figures['nelbo_nats']:.2f} nats (reconstruction"
            f" {figures['recon_nats']:.2f} + KL {figures['kl_nats']:.2f})."
        )
    lines.append(f"Reproduce: `dvc repro` or `python -m pipeline run {space.name}`.")
    return "\n\n".join(lines)


def _dataset(manifest: dict[str, Any]) -> Dataset:
    return Dataset(manifest["data"], manifest["sha256"][:36], source=manifest["data"])
