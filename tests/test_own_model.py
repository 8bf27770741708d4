"""The files of docs/model.md as a stranger has them, to a champion that loads alone."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from own_models import (
    EXAMPLE,
    FILE,
    LIKELIHOOD,
    METRICS,
    METRICS_FILE,
    SAMPLER,
    SAMPLER_FILE,
    space_of,
)
from test_pipeline import pipeline

from pipeline.audit import figures
from pipeline.audit.book import read_book
from pipeline.paths import STAGES, Paths
from pipeline.sync.outputs import Outputs

pytestmark = pytest.mark.slow


def work(folder: Path, workers: int) -> dict[str, bytes]:
    """All five stages by the command line; every output by name."""
    width = {"low": 4, "high": 8, "step": 4}
    files = {"metrics": METRICS, "likelihood": LIKELIHOOD, "sampler": SAMPLER}
    space_of(folder, width=width, latent_dim=3, **files)
    (folder / "machine.yaml").write_text(f"workers: {workers}\ndevice: cpu\n")
    done = pipeline(folder, "run", "own")
    assert done.returncode == 0, done.stderr
    base = folder / "runs" / "own"
    return {
        str(path.relative_to(base)): path.read_bytes()
        for path in sorted(base.rglob("*"))
        if path.is_file()
    }


def test_one_file_becomes_a_champion_that_loads_alone(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    outputs = work(folder, 1)
    assert b"width" in outputs["render/report.html"]
    assert work(tmp_path / "two", 2) == outputs
    audited = pipeline(folder, "verify", "own", "--train", "1", "--measure")
    assert audited.returncode == 0, audited.stdout + audited.stderr
    metrics_are_stated(folder, outputs)
    loads_alone(folder, tmp_path / "elsewhere")

    study = next((folder / "runs" / "state" / "studies").glob("own-*")).name
    (folder / FILE).write_text(EXAMPLE.replace("> 4:", "> 2:"))
    refused = pipeline(folder, "reproduce", "own", "0", "--study", study)
    assert refused.returncode == 2
    assert f"study {study} is of {FILE} of SHA-256" in refused.stderr
    stale = pipeline(folder, "evaluate", "own")
    assert f"was made with model.sources.{FILE}.sha256" in stale.stderr
    printed = pipeline(folder, "space", study, "--file", FILE)
    assert printed.stdout == EXAMPLE


def metrics_are_stated(folder: Path, outputs: dict[str, bytes]) -> None:
    """Of one's own: wherever others are, and what does not follow from them is found."""
    stated = json.loads(outputs["evaluate/metrics.json"])
    assert stated["own_metrics"].keys() == {"sharpness", "errors"}
    assert stated["own_metrics"]["errors"]["worst"] > stated["own_metrics"]["errors"]["best"] > 0
    assert json.loads(outputs["evaluate/headline.json"])["own_metrics"] == stated["own_metrics"]
    report = outputs["render/report.html"].decode()
    assert "Own metrics" in report
    assert "errors · worst" in report
    sent = Outputs.read(Paths(folder, "own"), "evaluate").figures()  # to MLflow
    assert sent["test_own_metrics.sharpness"] == stated["own_metrics"]["sharpness"]
    book = read_book(Paths(folder, "own"), STAGES)
    assert not list(figures.metrics(book))
    for forged in ({}, {"sharpness": 1.0}, {**stated["own_metrics"], "other": 1.0}):
        wrong = replace(book, metrics={**book.metrics, "own_metrics": forged})
        assert any("own_metrics are of" in line for line in figures.metrics(wrong))

    record = json.loads(outputs["evaluate/record.json"])
    digest = hashlib.sha256(METRICS.encode()).hexdigest()
    assert record["settings"]["evaluate"]["sources"][METRICS_FILE]["sha256"] == digest
    study = next((folder / "runs" / "state" / "studies").glob("own-*")).name
    assert pipeline(folder, "space", study, "--file", METRICS_FILE).stdout == METRICS
    assert pipeline(folder, "space", study, "--file", SAMPLER_FILE).stdout == SAMPLER
    (folder / METRICS_FILE).write_text(METRICS + "\n")
    assert pipeline(folder, "reproduce", "own", "0").returncode == 0  # no training depends on it
    stale = pipeline(folder, "render", "own")
    assert f"was made with evaluate.sources.{METRICS_FILE}.sha256" in stale.stderr
    assert "run `python -m pipeline evaluate own` first" in stale.stderr
    (folder / METRICS_FILE).write_text(METRICS)


def loads_alone(folder: Path, elsewhere: Path, shape: tuple[int, int, int] = (1, 8, 8)) -> None:
    """A saved MLflow model in a process that has neither the checkout nor the file."""
    retrain = folder / "runs" / "own" / "retrain"
    save = "from pipeline.tracking.model import save_model; import sys; from pathlib import Path\n"
    save += "save_model(*map(Path, sys.argv[1:]))\n"
    files = [elsewhere / "model", retrain / "model.safetensors", retrain / "config.json"]
    elsewhere.mkdir()
    command = [sys.executable, "-c", save, *map(str, files)]
    subprocess.run(command, cwd=elsewhere, check=True, capture_output=True)
    code = (
        "import mlflow, numpy, sys\n"
        "model = mlflow.pyfunc.load_model('model')\n"
        "numpy.save('out.npy', model.predict(None, params={'mode': 'generate', 'n': 2}))\n"
        "print(sys.modules['pipeline'].__file__)\n"
    )
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=elsewhere, env=bare, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.endswith("/code/pipeline/__init__.py\n")
    assert np.load(elsewhere / "out.npy").shape == (2, *shape)
