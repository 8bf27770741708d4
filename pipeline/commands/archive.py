"""`archive`: a sweep as one tar file, enough to look at it on another machine."""

from __future__ import annotations

import importlib.metadata
import io
import json
import platform
import subprocess
import tarfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.commands.status import current_studies
from pipeline.errors import UserError
from pipeline.files import atomic_path
from pipeline.paths import Paths
from pipeline.results.states import Kind
from pipeline.settings.machine import Machine
from pipeline.settings.space import load_space
from pipeline.study.storage.ledger import Ledger
from pipeline.study.storage.outages import PATIENCE_SECONDS
from pipeline.study.storage.readonly import reading
from pipeline.study.storage.rows import Part
from pipeline.work.budget_file import as_made

HOLDER = ("owner", "expires", "strikes")  # of a part: who works on it is of no use elsewhere


def archive(root: Path, machine: Machine, name: str, target: Path) -> Path:
    """Writes the tar file `target`: the space, runs/NAME, its studies, versions.

    Equal sweeps give equal bytes. Raises UserError for a sweep without outputs.
    """
    paths = Paths(root, name)
    space = as_made(load_space(root, name), paths)
    outputs = paths.runs / name
    if not paths.manifest.exists():
        raise UserError(
            f"archive {name}: {outputs} holds no outputs: run `python -m pipeline run {name}` first"
        )
    if target.is_dir():
        raise UserError(f"archive {name}: {target} is a folder: name a file")
    texts = {
        "studies.json": json.dumps(_studies(paths, machine, list(current_studies(space, paths)))),
        "versions.json": json.dumps(_versions(root), indent=1),
    }
    with atomic_path(target) as temporary, tarfile.open(temporary, "w") as tar:
        tar.add(root / "search_spaces" / f"{name}.yaml", f"search_spaces/{name}.yaml",
                filter=_plain)  # fmt: skip
        if table := space.search.observations:
            tar.add(root / table.file, table.file, filter=_plain)
        for path in sorted(outputs.rglob("*")):
            if path.is_file():
                tar.add(path, f"runs/{name}/{path.relative_to(outputs)}", filter=_plain)
        for file, text in texts.items():
            content = text.encode()
            entry = tarfile.TarInfo(file)
            entry.size = len(content)
            tar.addfile(_plain(entry), io.BytesIO(content))
    return target


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without times and owners."""
    entry.mtime = entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o644
    return entry


def _studies(paths: Paths, machine: Machine, current: list[str]) -> dict[str, Any]:
    """The present studies as the ledger has them: specification and trials, a row a part."""
    with reading(machine, paths, PATIENCE_SECONDS) as ledger:
        known = {
            study: {"kind": kind, "spec": spec}
            for kind in Kind
            for study, spec in ledger.studies(paths.name, kind).items()
            if study in current
        }
        return {study: {**record, **_rows(ledger, study)} for study, record in known.items()}


def _rows(ledger: Ledger, study: str) -> dict[str, Any]:
    """The parts of a study's trials, and the origins that they name by their digests."""
    parts = ledger.parts(study)
    named = sorted({part.meta["source"] for part in parts if "source" in part.meta})
    origins = {key: ledger.origin(study, key) for key in named}
    return {"trials": [_part(part) for part in parts], "origins": origins}


def _part(part: Part) -> dict[str, Any]:
    return {key: value for key, value in asdict(part).items() if key not in HOLDER}


def _versions(root: Path) -> dict[str, Any]:
    """Python, every installed package, and the commit of the checkout."""
    packages = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    done = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "git_commit": done.stdout.strip(),
        "python": platform.python_version(),
        "packages": dict(sorted(packages.items())),
    }
