"""What a sweep must have left, by calm runs in folders of their own; an oracle for `habits.py`."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from audits import Site
from sklearn.datasets import load_digits

from pipeline.settings.snapshot import save
from pipeline.stages import evaluate, render

NAME = "tiny"
SPACE: dict[str, Any] = {
    "data": {"name": "npz", "path": "mine.npz", "limit": 150},
    "parameters": {
        "lr": {"low": 4e-3, "high": 2e-2, "log": True},
        "latent_dim": 2,
        "hidden": [16],
        "batch_size": 16,
    },
    "search": {"trials": 3, "epochs": 3, "parallelism": 2, "min_epochs": 1, "seed": 7},
    "retrain": {"top": 1, "seeds": 1, "epochs": 3},
    "evaluate": {"nelbo_samples": 1, "iw_samples": 2, "probe": False},
    "render": {"projections": ["pca"], "points": 50, "images": 4},
}
EDITS: dict[str, dict[str, Any]] = {  # section: the keys that an edit sets
    "a wider range": {"parameters": {"lr": {"low": 4e-3, "high": 4e-2, "log": True}}},
    "more trials": {"search": {"trials": 4}},
    "fewer epochs": {"search": {"epochs": 2}},
    "more seeds": {"retrain": {"seeds": 2}},
    "more candidates": {"retrain": {"top": 2}},
    "more samples": {"evaluate": {"iw_samples": 3}},
    "fewer images": {"render": {"images": 3}},
    "other data": {"data": {"name": "digits", "path": None}},
}


@dataclass(frozen=True)
class State:
    """A search space and own data beside it."""

    edits: frozenset[str] = frozenset()
    data: int = 0  # which digits mine.npz holds

    @property
    def space(self) -> dict[str, Any]:
        made = {section: dict(keys) for section, keys in SPACE.items()}
        for edit in sorted(self.edits):
            for section, keys in EDITS[edit].items():
                made[section] |= keys
        return {
            section: {key: value for key, value in keys.items() if value is not None}
            for section, keys in made.items()
        }


def write_digits(file: Path, data: int) -> None:
    """400 of scikit-learn's digits, others for each `data`."""
    digits = load_digits()
    chosen = np.random.default_rng(data).permutation(len(digits.images))[:400]
    images = (digits.images[chosen] * 15).astype(np.uint8)
    temporary = file.with_suffix(".new.npz")
    np.savez(temporary, images=images, labels=digits.target[chosen])
    temporary.replace(file)


@dataclass(frozen=True)
class Outputs:
    """All files of a sweep by name, STAGE/FILE."""

    files: dict[str, bytes]

    def json(self, name: str) -> Any:
        return json.loads(self.files[name])

    @property
    def study(self) -> str:
        return str(self.json("search/best.json")["study"])

    def curves(self) -> dict[int, list[float]]:
        """The validation NELBO of every trial of the search, epoch by epoch."""
        found: dict[int, list[float]] = {}
        for row in csv.DictReader(io.StringIO(self.files["search/curves.csv"].decode())):
            found.setdefault(int(row["number"]), []).append(float(row["nelbo_nats"]))
        return found

    def md5(self, out: str) -> str:
        """The digest that DVC gives a file or, with .dir, a folder."""
        if out in self.files:
            return hashlib.md5(self.files[out]).hexdigest()
        entries = [
            {"md5": hashlib.md5(content).hexdigest(), "relpath": name.removeprefix(f"{out}/")}
            for name, content in self.files.items()
            if name.startswith(f"{out}/")
        ]
        entries.sort(key=lambda entry: entry["relpath"])
        return hashlib.md5(json.dumps(entries, sort_keys=True).encode()).hexdigest() + ".dir"


def read_outputs(root: Path) -> Outputs:
    """The outputs in a checkout as they are."""
    folder = root / "runs" / NAME
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return Outputs({n: p.read_bytes() for n, p in names.items() if Path(n).name[0] != "."})


class Oracle:
    """The outputs of a calm run by state, each made once in a fresh folder."""

    def __init__(self, folder: Path):
        self._folder, self._known = folder, dict[State, Outputs]()

    def __call__(self, state: State) -> Outputs:
        if "other data" in state.edits:
            state = State(state.edits)  # which reads no own data
        if state not in self._known:
            self._known[state] = self._run(self._folder / f"calm{len(self._known)}", state)
        return self._known[state]

    def _run(self, root: Path, state: State) -> Outputs:
        """All stages in this process, by one worker: no crew, no DVC, no MLflow, no fault."""
        site = Site(root)
        site.write(state.space)
        write_digits(root / "mine.npz", state.data)
        save(site.space, site.paths, "settings")
        site.search()
        site.retrain()
        for stage in (evaluate, render):
            stage.run(site.space, site.machine, site.paths)
        return read_outputs(root)


def whole_stages(found: Outputs) -> Iterator[str]:
    """The stages whose files are all what their records say."""
    for stage in ("prepare", "search", "retrain", "evaluate", "render"):
        if f"{stage}/record.json" not in found.files:
            continue
        outputs = found.json(f"{stage}/record.json")["outputs"]
        sha256 = {
            name: hashlib.sha256(found.files.get(f"{stage}/{name}", b"-")).hexdigest()
            for name in outputs
        }
        if sha256 == outputs:
            yield stage


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of nested metrics under dotted names."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        elif isinstance(value, int | float):
            yield f"{prefix}{key}", float(value)
