"""What the stages have left on disk, as MLflow shows it on the run of a study."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.files import read_json
from pipeline.paths import STAGES, Paths
from pipeline.results.keys import flat
from pipeline.results.record import belongs, checked, is_made, open_stage, read_record
from pipeline.seeds import digest
from pipeline.settings.space import Space
from pipeline.tracking.records import Dataset

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
    study's. Nor does one that was made from others than lie there now.
    """

    done: str
    manifest: dict[str, Any] | None
    best: dict[str, Any] | None
    winner: dict[str, Any] | None
    config: dict[str, Any] | None  # the record of the winner's model
    metrics: dict[str, Any] | None

    @classmethod
    def read(cls, paths: Paths, done: str) -> Outputs:
        """The outputs of a sweep as they are now. Raises UserError for damaged ones."""

        def read(file: Path) -> dict[str, Any] | None:
            if not _counts(paths, file.parent.name, done):
                return None
            content: dict[str, Any] = read_json(checked(paths, file))
            return content

        best, winner = read(paths.best), read(paths.winner)
        if best is None or (winner is not None and winner["study"] != best["study"]):
            winner = None
        config = read(paths.config) if winner else None
        metrics = read(paths.metrics) if winner else None
        return cls(done, read(paths.manifest), best, winner, config, metrics)

    def figures(self) -> dict[str, float]:
        """What is stated of the winner, with the split that it was measured on: the mean over the
        fresh seeds on the validation images, all of metrics.json on the test images."""
        if self.winner is None or self.metrics is None:
            return {}
        values = self.winner["values_nelbo_nats"]
        found = {"validation_nelbo_nats": sum(values) / len(values)}
        for key, value in flat(self.metrics).items():
            found[key if key.startswith("test_") else f"test_{key}"] = value
        return found

    def digest(self) -> str:
        """What moves when a study's run in MLflow has to."""
        return digest([self.best, self.winner, self.config, self.metrics])[:DIGITS]


def _counts(paths: Paths, stage: str, done: str) -> bool:
    before = STAGES.index(stage) <= STAGES.index(done)
    return before and is_made(paths, stage) and belongs(paths, stage)


def artifacts(paths: Paths, done: str) -> dict[str, Path]:
    """The files of the stages up to `done`, and the winner as a model, by their path in MLflow.

    Raises UserError for damaged ones.
    """
    found: dict[str, Path] = {}
    for stage, names in ARTIFACTS.items():
        if _counts(paths, stage, done):
            there = [name for name in names if name in read_record(paths, stage).outputs]
            open_stage(paths, stage, there)
            found |= {f"{stage}/{name}": paths.stage(stage) / name for name in there}
    if _counts(paths, "evaluate", done) and winner_model(paths).exists():
        found[model_place(paths)] = winner_model(paths)
    if _counts(paths, "render", done):
        drawn = open_stage(paths, "render").outputs
        found |= {
            f"figures/{name}" if name.endswith(".png") else name: paths.render / name
            for name in drawn
        }
    return found


def winner_model(paths: Paths) -> Path:
    """The folder of the winner as an MLflow model, named by the winner's content."""
    return paths.state / "models" / winner_digest(paths)


def model_place(paths: Paths) -> str:
    """Where the winner's model is among the artifacts of its study's run: each has its own place,
    because versions of earlier winners of the study name the same run."""
    return f"model-{winner_digest(paths)[:DIGITS]}"


def winner_digest(paths: Paths) -> str:
    """What identifies the winner: the record of its model and its values on all seeds."""
    files = (paths.config, paths.winner)
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
