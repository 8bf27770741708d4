"""What the stages have left on disk, as MLflow shows it on the run of a study."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import Space
from pipeline.paths import Paths, read_json
from pipeline.seeds import digest
from pipeline.stages import STAGES
from pipeline.tracking.run import Dataset

ARTIFACTS = {
    "search": ("trials.csv", "curves.csv"),
    "retrain": ("candidates.csv", "history.csv"),
    "evaluate": ("metrics.json",),
}

DIGITS = 12  # of a hash, as people see it in a table


@dataclass(frozen=True)
class Outputs:
    """What the stages have left on disk; None where a stage has not run.

    `done` is the last stage whose output counts: what lies there of later ones may be another
    study's.
    """

    done: str
    manifest: dict[str, Any] | None
    best: dict[str, Any] | None
    winner: dict[str, Any] | None
    metrics: dict[str, Any] | None

    @classmethod
    def read(cls, paths: Paths, done: str) -> Outputs:
        """The outputs of a sweep as they are now."""

        def read(stage: str, name: str) -> dict[str, Any] | None:
            try:
                return read_json(paths.stage(stage) / name) if _counts(stage, done) else None
            except FileNotFoundError:
                return None

        best, winner = read("search", "best.json"), read("retrain", "winner.json")
        if best is None or (winner is not None and winner["study"] != best["study"]):
            winner = None
        metrics = read("evaluate", "metrics.json") if winner else None
        return cls(done, read("prepare", "manifest.json"), best, winner, metrics)


def _counts(stage: str, done: str) -> bool:
    return STAGES.index(stage) <= STAGES.index(done)


def artifacts(paths: Paths, done: str) -> dict[str, Path]:
    """The files of the stages up to `done`, and the winner as a model, by their path in MLflow."""
    found = {
        f"{stage}/{name}": paths.stage(stage) / name
        for stage, names in ARTIFACTS.items()
        for name in names
        if _counts(stage, done)
    }
    if _counts("evaluate", done):
        found["model"] = winner_model(paths)
    if _counts("render", done):
        found["report.html"] = paths.render / "report.html"
        found |= {f"figures/{figure.name}": figure for figure in paths.render.glob("*.png")}
    return {name: path for name, path in found.items() if path.exists()}


def winner_model(paths: Paths) -> Path:
    """The folder of the winner as an MLflow model, named by the winner's content."""
    return paths.state / "models" / winner_digest(paths)


def winner_digest(paths: Paths) -> str:
    """What identifies the winner: the record of its model and its values on all seeds."""
    files = (paths.retrain / "config.json", paths.retrain / "winner.json")
    return digest([file.read_text(encoding="utf-8") if file.exists() else "" for file in files])


def description(space: Space, study: str, outputs: Outputs | None) -> str:
    """Markdown: what the study is, its winner, its figures, and how to have them again."""
    blocks = [f"Sweep **{space.name}**, study `{study}`."]
    if outputs and outputs.winner:
        winner = outputs.winner
        number = winner["number"]
        of = "the only setting" if number is None else f"trial {number}"
        blocks += [f"**Winner: {of}.** {winner['sentence']}", _table(winner["parameters"])]
    if outputs and outputs.metrics:
        figures = outputs.metrics
        blocks.append(
            f"Test NELBO **{figures['nelbo_nats']:.2f} nats** (reconstruction"
            f" {figures['recon_nats']:.2f} + KL {figures['kl_nats']:.2f})."
        )
    return "\n\n".join([*blocks, "Reproduce:", _commands(space.name, outputs)])


def dataset(manifest: dict[str, Any]) -> Dataset:
    """The prepared data as MLflow lists a data set: digest, tensors, number of images."""
    counts = manifest["counts"]
    images = {
        "type": "tensor",
        "tensor-spec": {"dtype": "uint8", "shape": [-1, *manifest["shape"]]},
    }
    schema = {"mlflow_tensorspec": {"features": json.dumps([images]), "targets": None}}
    return Dataset(
        name=manifest["data"],
        digest=manifest["sha256"][:DIGITS],  # the whole of it is a tag
        source=manifest["data"],
        schema=json.dumps(schema),
        profile=json.dumps({"num_examples": sum(counts.values()), **counts}),
    )


def _table(parameters: dict[str, Any]) -> str:
    rows = [f"| {name} | {value} |" for name, value in parameters.items()]
    return "\n".join(["| hyperparameter | value |", "|---|---|", *rows])


def _commands(name: str, outputs: Outputs | None) -> str:
    lines = [f"dvc repro render@{name}    # or: python -m pipeline run {name}"]
    if outputs and outputs.winner and outputs.winner["number"] is not None:
        lines.append(f"python -m pipeline reproduce {name} {outputs.winner['number']}")
    return "\n".join(["```", *lines, "```"])
