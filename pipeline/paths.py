"""Every path of the project."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

STAGES = ("prepare", "search", "retrain", "evaluate", "render")
COPIES = (".dvc", "tmp", "exps")  # where DVC copies a checkout to


@dataclass(frozen=True)
class Paths:
    """The files of the sweep `name` in the checkout `root`."""

    root: Path
    name: str

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    def stage(self, stage: str) -> Path:
        """The output folder of a stage (a DVC out)."""
        return self.runs / self.name / stage

    @property
    def settings(self) -> Path:
        """What the stages work from, a file a section (a DVC out too)."""
        return self.stage("settings")

    @property
    def prepare(self) -> Path:
        return self.stage("prepare")

    @property
    def manifest(self) -> Path:
        return self.prepare / "manifest.json"

    @property
    def samples(self) -> Path:
        return self.prepare / "samples.png"

    @property
    def held_out(self) -> Path:
        return self.prepare / "held_out_images.npy"

    @property
    def search(self) -> Path:
        return self.stage("search")

    @property
    def trials_table(self) -> Path:
        return self.search / "trials.csv"

    @property
    def curves_table(self) -> Path:
        return self.search / "curves.csv"

    @property
    def best(self) -> Path:
        return self.search / "best.json"

    @property
    def search_record(self) -> Path:
        return self.search / "study.json"

    @property
    def retrain(self) -> Path:
        return self.stage("retrain")

    @property
    def config(self) -> Path:
        return self.retrain / "config.json"

    @property
    def winner(self) -> Path:
        return self.retrain / "winner.json"

    @property
    def candidates_table(self) -> Path:
        return self.retrain / "candidates.csv"

    @property
    def history_table(self) -> Path:
        return self.retrain / "history.csv"

    @property
    def runs_record(self) -> Path:
        return self.retrain / "runs.json"

    @property
    def measured(self) -> Path:
        return self.retrain / "measured.npy"

    @property
    def model(self) -> Path:
        return self.retrain / "model.safetensors"

    @property
    def evaluate(self) -> Path:
        return self.stage("evaluate")

    @property
    def metrics(self) -> Path:
        return self.evaluate / "metrics.json"

    @property
    def headline(self) -> Path:
        return self.evaluate / "headline.json"

    @property
    def render(self) -> Path:
        return self.stage("render")

    @property
    def report(self) -> Path:
        return self.render / "report.html"

    @property
    def nights(self) -> Path:
        """A folder for each night, with its summary."""
        return self.runs / "nights"

    @property
    def budget(self) -> Path:
        """What a deadline has chosen in place of the file's budget, if it has."""
        return self.runs / self.name / "budget.json"

    @property
    def state(self) -> Path:
        """Live state that outlives stages: never a DVC out, never deleted by one.

        It is the main checkout's, also for an experiment that DVC runs in a copy.
        """
        return main_checkout(self.root) / "runs" / "state"

    @property
    def downloads(self) -> Path:
        return self.state / "downloads"

    @property
    def seconds(self) -> Path:
        """How long stages took, for whoever has to be done by a deadline."""
        return self.state / "seconds" / f"{self.name}.json"

    @property
    def ledger(self) -> Path:
        return self.state / "ledger.db"

    @property
    def mlflow_db(self) -> Path:
        return self.state / "mlflow.db"

    @property
    def mlflow_artifacts(self) -> Path:
        return self.state / "mlflow-artifacts"

    def study(self, study: str) -> Path:
        """The folder of a study: checkpoints, weights, lock, logs."""
        return self.state / "studies" / study

    def trial(self, study: str, number: int) -> Path:
        return self.study(study) / f"trial-{number:05d}"


def is_text(name: str) -> bool:
    """Whether a name is UTF-8: Python keeps the bytes of another in a way nobody can write down."""
    return name == name.encode(errors="replace").decode()


def main_checkout(root: Path) -> Path:
    """The checkout whose live state `root` shares: itself, or the one that it is a copy of.

    `dvc exp run --temp` and `--queue` copy a checkout to .dvc/tmp/exps/NAME in it, and remove the
    copy when they are done. The project may be a folder of the repository that DVC was set up in.
    """
    here = root.absolute()
    for folder in here.parents:
        if folder.parts[-3:] == COPIES and (folder.parents[1] / "config").exists():
            copied = (each for each in (here, *here.parents) if folder in each.parents)
            top = next((each for each in copied if (each / COPIES[0]).is_dir()), here)
            return folder.parents[2] / here.relative_to(top)
    return root
