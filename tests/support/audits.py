"""Sweeps on digits that can be audited, and an adversary who forges them with care."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from pipeline.files import read_json, write_json
from pipeline.paths import Paths
from pipeline.results.record import INPUTS
from pipeline.settings.machine import Machine, load_machine
from pipeline.settings.space import Space, parse_space
from pipeline.stages import prepare, retrain, search
from pipeline.study.identity import Study, candidate_study, search_study
from pipeline.study.ranking import best_record, ranked
from pipeline.study.receipt import left_out, read_studies, recorded_part
from pipeline.study.storage.ledger import Ledger
from pipeline.study.storage.rows import trials_of
from pipeline.study.tables import curves_table, trials_table
from pipeline.work.job import Job
from pipeline.work.worker import Worker

NAME = "tiny"
SPACE: dict[str, Any] = {
    "data": {"name": "digits", "limit": 500},
    "parameters": {
        "lr": {"low": 4e-3, "high": 0.2, "log": True},
        "optimizer": {"choices": ["adam", "sgd"]},
        "momentum": {"low": 0.1, "high": 0.95, "when": {"optimizer": "sgd"}},
        "hidden": {"choices": [[32], [16]]},
        "latent_dim": 4,
        "batch_size": 16,
        "patience": 2,
        "monitor": "recon",
    },
    "search": {
        "trials": 8,
        "epochs": 6,
        "parallelism": 2,
        "startup_trials": 3,
        "rungs": [2, 4, 6],
        "seed": 7,
    },
    "retrain": {"top": 2, "seeds": 2, "epochs": 8},
    "evaluate": {"nelbo_samples": 1, "iw_samples": 2, "probe": False},
    "render": {"projections": ["pca"], "points": 60, "images": 4},
}


def sweep(**sections: dict[str, Any]) -> dict[str, Any]:
    """The sweep above with these keys of its sections over its own."""
    return {**SPACE, **{name: {**SPACE.get(name, {}), **keys} for name, keys in sections.items()}}


class Site:
    """A folder like a clone's with one sweep, worked on by workers in this process."""

    def __init__(self, root: Path):
        self.root, self.paths = root, Paths(root, NAME)

    @property
    def space(self) -> Space:
        raw = yaml.safe_load((self.root / "search_spaces" / f"{NAME}.yaml").read_text())
        return parse_space(NAME, raw, "tiny.yaml")

    @property
    def machine(self) -> Machine:
        return load_machine(self.root)

    def write(self, raw: dict[str, Any]) -> None:
        """Writes the space."""
        (self.root / "search_spaces").mkdir(parents=True, exist_ok=True)
        (self.root / "search_spaces" / f"{NAME}.yaml").write_text(yaml.safe_dump(raw))
        (self.root / "machine.yaml").write_text("workers: 1\ntracking: none\ndevice: cpu\n")

    def search(self) -> None:
        """The stages prepare and search."""
        if not self.paths.prepare.exists():
            prepare.run(self.space, self.machine, self.paths)
        self.work([search_study(self.space, self.data)], {})
        search.run(self.space, self.machine, self.paths)

    def retrain(self) -> None:
        """The stage retrain."""
        entries = read_json(self.paths.search / "best.json")["ranking"][: self.space.retrain.top]
        settings = [entry["parameters"] for entry in entries]
        studies = [candidate_study(self.space, self.data, each) for each in settings]
        self.work(studies, {s.id: e for s, e in zip(studies, settings, strict=True)})
        retrain.run(self.space, self.machine, self.paths)

    @property
    def data(self) -> str:
        digest: str = read_json(self.paths.prepare / "manifest.json")["sha256"]
        return digest

    def work(self, studies: list[Study], candidates: dict[str, Any]) -> None:
        """Finishes all trials of these studies."""
        self.paths.ledger.parent.mkdir(parents=True, exist_ok=True)
        ledger = Ledger(f"sqlite:///{self.paths.ledger}")
        for study in studies:
            ledger.open_study(study.id, NAME, study.kind, study.spec, left_out(self.space))
        job = Job(stage="search", space=self.space, studies=studies, candidates=candidates,
                  lineage={})  # fmt: skip
        assert Worker(job, ledger, self.root, "cpu").work() == 0
        ledger.close()


class Forger:
    """Changes what a sweep has left, and then all that would give the change away at once."""

    def __init__(self, paths: Paths):
        self.paths = paths

    def json(self, name: str, change: Callable[[Any], Any]) -> None:
        """Changes a JSON file of runs/NAME."""
        file = self.paths.runs / NAME / name
        value = json.loads(file.read_text())
        change(value)
        write_json(file, value)

    def text(self, name: str, old: str, new: str) -> None:
        """Changes the first of a text in a file."""
        file = self.paths.runs / NAME / name
        content = file.read_text()
        assert old in content
        file.write_text(content.replace(old, new, 1))

    def trials(self, change: Callable[[list[dict[str, Any]]], Any]) -> None:
        """Changes the trials, and the tables and the ranking as they then are."""
        self.json("search/study.json", lambda studies: change(studies[0]["trials"]))
        (study,) = read_studies(self.paths.search / "study.json")
        space = Site(self.paths.root).space
        parts = [recorded_part(study["study"], record) for record in study["trials"]]
        trials = trials_of(parts)
        folder = self.paths.search
        trials_table(trials, list(space.searched)).to_csv(folder / "trials.csv", index=False)
        curves_table(trials).to_csv(folder / "curves.csv", index=False)
        best = best_record(space, study["study"], parts, ranked(trials))
        write_json(folder / "best.json", best)

    def seal(self) -> None:
        """Makes every digest right again."""
        known: dict[str, str] = {}
        for stage, inputs in INPUTS.items():
            folder = self.paths.stage(stage)
            record = json.loads((folder / "record.json").read_text())
            files = (file for file in folder.rglob("*") if file.is_file())
            names = (str(file.relative_to(folder)) for file in files)
            record["outputs"] = {
                name: _sha256(folder / name) for name in sorted(names) if name != "record.json"
            }
            record["inputs"] = {earlier: known[earlier] for earlier in inputs}
            write_json(folder / "record.json", record)
            known[stage] = _sha256(folder / "record.json")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
