"""Every path of the project."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

STAGES = ("prepare", "search", "retrain", "evaluate", "render")
COPIES = (".dvc", "tmp", "exps")  # where DVC copies a checkout to


class _Output:
    """The output folder of a stage, or a file in it."""

    def __init__(self, stage: str, file: str = ""):
        self._stage, self._file = stage, file

    def __get__(self, paths: Paths, _: type[Paths]) -> Path:
        return paths.stage(self._stage) / self._file


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

    settings = _Output("settings")  # what the stages work from, a file a section (a DVC out too)

    prepare = _Output("prepare")
    manifest = _Output("prepare", "manifest.json")
    samples = _Output("prepare", "samples.png")
    held_out = _Output("prepare", "held_out_images.npy")

    search = _Output("search")
    trials_table = _Output("search", "trials.csv")
    curves_table = _Output("search", "curves.csv")
    best = _Output("search", "best.json")
    search_record = _Output("search", "study.json")

    retrain = _Output("retrain")
    config = _Output("retrain", "config.json")
    winner = _Output("retrain", "winner.json")
    candidates_table = _Output("retrain", "candidates.csv")
    history_table = _Output("retrain", "history.csv")
    runs_record = _Output("retrain", "runs.json")
    measured = _Output("retrain", "measured.npy")
    model = _Output("retrain", "model.safetensors")

    evaluate = _Output("evaluate")
    metrics = _Output("evaluate", "metrics.json")
    headline = _Output("evaluate", "headline.json")

    render = _Output("render")
    report = _Output("render", "report.html")

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
