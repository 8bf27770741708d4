"""The ledger and the stages' outputs as MLflow records: a pure function, so that a deleted store
can be rebuilt and an interrupted one brought up to date."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import Space
from pipeline.paths import Paths, read_json
from pipeline.study.identity import candidate_study
from pipeline.study.ledger import Ledger, Trial
from pipeline.tracking.run import Dataset, Metric, Run, Status

# What of an epoch becomes a curve in MLflow.
CURVES = (
    "nelbo_nats",
    "recon_nats",
    "kl_nats",
    "train_nelbo_nats",
    "train_recon_nats",
    "train_kl_nats",
    "lr",
    "active_units",
    "mu_std",
    "log_var_mean",
    "seconds",
)
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


def records(space: Space, paths: Paths, ledger: Ledger, live: str | None) -> Iterator[Run]:
    """All runs of a sweep, parents first. `live` is the stage at work, if one is."""
    outputs = Outputs.read(paths)
    for study, spec in ledger.studies(space.name, "search").items():
        trials = ledger.trials(study)
        if not trials:
            continue
        current = outputs.best is not None and outputs.best["study"] == study
        yield _study_run(space, paths, study, spec, trials, outputs if current else None, live)
        for trial in trials:
            yield _trial_run(space, study, spec, trial, live)
        if current:
            yield from _candidate_runs(space, paths, study, ledger, outputs, live)


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Nested metrics as `first_epoch.nelbo_nats`."""
    found: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        elif isinstance(value, int | float):
            found[prefix + key] = float(value)
    return found


def _study_run(
    space: Space,
    paths: Paths,
    study: str,
    spec: dict[str, Any],
    trials: list[Trial],
    outputs: Outputs | None,
    live: str | None,
) -> Run:
    ended = max((t.finished_ms or t.started_ms) for t in trials)
    settings = {f"search.{key}": str(value) for key, value in spec["search"].items()}
    domains = {f"space.{name}": _text(domain) for name, domain in spec["searched"].items()}
    return Run(
        key=study,
        name=f"study {study}",
        parent=None,
        status="RUNNING" if live else "FINISHED",
        start_ms=trials[0].started_ms,
        end_ms=None if live else ended,
        params=settings | domains | {"likelihood": spec["model"]["likelihood"]},
        metrics=[
            *_best_so_far(trials),
            *(_points(flat(outputs.metrics), 0, ended) if outputs and outputs.metrics else []),
        ],
        tags={"kind": "study", "study": study, "data_sha256": spec["data"], **_lineage(trials[0])},
        artifacts=_artifacts(paths) if outputs else {},
        description=_description(space, study, outputs),
        dataset=_dataset(outputs.manifest) if outputs and outputs.manifest else None,
    )


def _trial_run(
    space: Space, study: str, spec: dict[str, Any], trial: Trial, live: str | None
) -> Run:
    parameters = {**spec["fixed"], **(trial.parameters or {})}
    return _run_of(
        trial,
        key=f"{study}/{trial.number:05d}",
        name=f"trial {trial.number:04d}",
        parent=study,
        parameters=parameters,
        tags={"kind": "trial", "study": study, "data_sha256": spec["data"]},
        live=live,
    )


def _candidate_runs(
    space: Space, paths: Paths, parent: str, ledger: Ledger, outputs: Outputs, live: str | None
) -> Iterator[Run]:
    assert outputs.best is not None
    if outputs.manifest is None:
        return
    data = outputs.manifest["sha256"]
    for index, entry in enumerate(outputs.best["ranking"][: space.retrain.top]):
        study = candidate_study(space, data, entry["parameters"])
        won = outputs.winner is not None and outputs.winner["candidate"] == index
        for trial in ledger.trials(study.id, 0, study.budget - 1):
            yield _run_of(
                trial,
                key=f"{study.id}/{trial.number:05d}",
                name=f"candidate {index} seed {trial.number}",
                parent=parent,
                parameters=space.hyperparameters(entry["parameters"]).model_dump(),
                tags={
                    "kind": "candidate",
                    "study": study.id,
                    "data_sha256": data,
                    "candidate": str(index),
                    "winner": str(won).lower(),
                    "search_trial": str(entry["number"]),
                },
                live=live,
            )


def _run_of(
    trial: Trial,
    *,
    key: str,
    name: str,
    parent: str,
    parameters: dict[str, Any],
    tags: dict[str, str],
    live: str | None,
) -> Run:
    held = trial.state == "running" and trial.owner is not None and live is not None
    metrics = [point for record in trial.curve for point in _epoch_points(record)]
    ended = trial.finished_ms or (trial.curve[-1]["ended_ms"] if trial.curve else trial.started_ms)
    if trial.result:
        summary = {f"best.{name}": trial.result[name] for name in ("nelbo_nats", "best_epoch")}
        metrics += _points(summary, trial.result["best_epoch"], ended)
    state = trial.state if trial.state != "running" or held else "interrupted"
    reason = {"reason": trial.reason} if trial.reason else {}
    return Run(
        key=key,
        name=name,
        parent=parent,
        status="RUNNING" if held else STATUS.get(trial.state, "KILLED"),
        start_ms=trial.started_ms,
        end_ms=None if held else ended,
        params={name: _text(value) for name, value in parameters.items() if value is not None},
        metrics=metrics,
        tags={**tags, "number": str(trial.number), "state": state, **reason, **_lineage(trial)},
    )


def _epoch_points(record: dict[str, Any]) -> Iterator[Metric]:
    for name in CURVES:
        if name in record:
            yield Metric(name, float(record[name]), record["epoch"], record["ended_ms"])


def _best_so_far(trials: list[Trial]) -> Iterator[Metric]:
    """The objective of the search against the trial number, stamped with the trial's end."""
    best = float("inf")
    for trial in trials:
        if trial.state == "complete" and trial.result and trial.result["nelbo_nats"] < best:
            best = trial.result["nelbo_nats"]
            yield Metric("search.best_nelbo_nats", best, trial.number, trial.finished_ms or 0)


def _points(values: dict[str, Any], step: int, timestamp_ms: int) -> list[Metric]:
    return [Metric(key, float(value), step, timestamp_ms) for key, value in values.items()]


def _lineage(trial: Trial) -> dict[str, str]:
    return {name: str(value) for name, value in trial.meta.items()}


def _artifacts(paths: Paths) -> dict[str, Path]:
    found = {
        "search/trials.csv": paths.search / "trials.csv",
        "search/curves.csv": paths.search / "curves.csv",
        "retrain/candidates.csv": paths.retrain / "candidates.csv",
        "retrain/history.csv": paths.retrain / "history.csv",
        "evaluate/metrics.json": paths.evaluate / "metrics.json",
        "model": paths.retrain / "model.safetensors",
        "report.html": paths.render / "report.html",
    }
    found["model/model.safetensors"] = found.pop("model")
    found["model/config.json"] = paths.retrain / "config.json"
    for figure in sorted(paths.render.glob("*.png")):
        found[f"figures/{figure.name}"] = figure
    return {name: path for name, path in found.items() if path.exists()}


def _description(space: Space, study: str, outputs: Outputs | None) -> str:
    lines = [f"Sweep **{space.name}**, study `{study}`."]
    if outputs and outputs.winner:
        chosen = ", ".join(f"{k} = {_text(v)}" for k, v in outputs.winner["parameters"].items())
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


def _text(value: Any) -> str:
    return str(value)
