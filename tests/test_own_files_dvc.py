"""Under DVC an edit of a file of one's own runs what depends on it, and nothing else."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from own_models import (
    LIKELIHOOD,
    LIKELIHOOD_FILE,
    METRICS,
    METRICS_FILE,
    READER,
    READER_FILE,
    write_digits,
)
from repository import git
from test_pipeline import ROOT, checkout, run

pytestmark = pytest.mark.slow

SPACE = {
    "data": {"name": "own", "path": "digits.csv", "reader": f"{READER_FILE}:read"},
    "model": {"likelihood": f"{LIKELIHOOD_FILE}:StudentT"},
    "parameters": {"hidden": [16], "latent_dim": 2},
    "retrain": {"top": 1, "seeds": 1, "epochs": 1},
    "evaluate": {
        "iw_samples": 0,
        "nelbo_samples": 1,
        "probe": False,
        "metrics": [f"{METRICS_FILE}:sharpness"],
    },
    "render": {"projections": ["pca"], "points": 50, "images": 2},
}
FILES = {READER_FILE: READER, LIKELIHOOD_FILE: LIKELIHOOD, METRICS_FILE: METRICS}


def repro(folder: Path, *targets: str) -> list[str]:
    """The stages that ran."""
    done = run(folder, "dvc", "repro", *targets)
    assert done.returncode == 0, done.stdout + done.stderr
    ran = re.findall(r"Running stage '(\w+)(?:@own)?'", done.stdout)
    return [stage for stage in ran if stage not in ("own_data", "settings")]


def test_an_edit_runs_what_depends_on_the_file(tmp_path: Path) -> None:
    folder = checkout(tmp_path / "clone", {"own": yaml.safe_dump(SPACE)}, dvc=True)
    (folder / "machine.yaml").write_text("workers: 1\ndevice: cpu\n")
    write_digits(folder / "digits.csv")
    for file, text in FILES.items():
        (folder / file).write_text(text)
    assert repro(folder) == ["prepare", "search", "retrain", "evaluate", "render"]
    audited = run(folder, "python", "-m", "pipeline", "verify", "own", "--measure")
    assert audited.returncode == 0, audited.stdout
    assert repro(folder) == []
    (folder / METRICS_FILE).write_text(METRICS + "\n")
    assert repro(folder) == ["evaluate", "render"]
    (folder / LIKELIHOOD_FILE).write_text(LIKELIHOOD + "\n")
    assert repro(folder) == ["search", "retrain", "evaluate", "render"]
    (folder / READER_FILE).write_text(READER + "\n")
    assert repro(folder, "prepare@own") == ["prepare"]


@pytest.mark.parametrize("file", FILES)
def test_what_no_digest_covers_is_refused_in_one_line(file: str, tmp_path: Path) -> None:
    """A helper that PYTHONPATH names, and one that is loaded by its path."""
    folder = checkout(tmp_path / "clone", {"own": yaml.safe_dump(SPACE)})
    write_digits(folder / "digits.csv")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "lent.py").write_text("SCALE = 2.0\n")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    words = ("-m", "pipeline", "check", "own")
    for line in ("import lent", f"import runpy\n\nrunpy.run_path('{tmp_path}/lib/lent.py')"):
        (folder / file).write_text(f"{FILES[file]}\n\n{line}\n")
        path = f"{ROOT}:{tmp_path / 'lib'}"
        done = run(folder, "python", *words, PYTHONPATH=path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert f"{file}: line " in done.stderr
        assert "a file that a space names may import " in done.stderr
        began = run(folder, "python", "-m", "pipeline", "run", "own", PYTHONPATH=path)
        assert (began.returncode, began.stdout) == (2, "")
        assert began.stderr.splitlines()[-1].startswith("error: "), began.stderr
        assert not (folder / "runs" / "state" / "studies").exists()


def test_a_night_keeps_files_that_git_does_not_have(tmp_path: Path) -> None:
    folder = checkout(tmp_path / "clone", {"2024": yaml.safe_dump(SPACE)}, dvc=True)
    shutil.rmtree(folder / ".dvc")
    shutil.copy(ROOT / ".gitignore", folder)
    git(folder, "init", "--quiet")
    assert run(folder, "dvc", "init", "--quiet").returncode == 0
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    (folder / "machine.yaml").write_text("workers: 1\ndevice: cpu\ntracking: none\n")
    write_digits(folder / "digits.csv")
    for file, text in FILES.items():
        (folder / file).write_text(text)
    done = run(folder, "python", "-m", "pipeline", "sweep", "2024", "--add", "1")
    assert done.returncode == 0, done.stderr
    (night,) = (folder / "runs" / "nights").iterdir()
    kept = json.loads((night / "summary.json").read_text())["experiment"]
    assert kept == {"name": f"night-{night.name}", "why": ""}
    for file in FILES:
        (folder / file).unlink()
    applied = run(folder, "dvc", "exp", "apply", kept["name"])
    assert applied.returncode == 0, applied.stderr
    assert {file: (folder / file).read_text() for file in FILES} == FILES
