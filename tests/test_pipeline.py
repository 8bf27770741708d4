"""The whole pipeline as a person runs it: the command line, in a folder of its own, no network."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parent.parent
TINY_DIGITS = """
data: {name: digits, limit: 400, hold_out: "9"}
model: {likelihood: bernoulli}
parameters:
  lr: {low: 3.0e-3, high: 1.0e-2, log: true}
  latent_dim: {choices: [2, 6]}
  hidden: [64]
  optimizer: {choices: [adam, adamw]}
  weight_decay: {low: 1.0e-3, high: 1.0e-2, when: {optimizer: adamw}}
  batch_size: 32
search: {trials: 5, epochs: 12, parallelism: 2, startup_trials: 3, min_epochs: 4, min_trials: 2}
retrain: {top: 2, seeds: 2, epochs: 15}
evaluate: {iw_samples: 5, nelbo_samples: 2}
render: {projections: [pca], points: 60, images: 4}
"""
FASHION_SLICE = """
data: {name: fashion-mnist, limit: 4000}
parameters: {lr: {low: 1.0e-3, high: 4.0e-3, log: true}, latent_dim: 16, schedule: cosine}
search: {trials: 3, epochs: 3, parallelism: 2}
retrain: {top: 1, seeds: 1, epochs: 4}
evaluate: {iw_samples: 2, nelbo_samples: 1}
render: {projections: [pca], points: 200}
"""


def checkout(folder: Path, spaces: dict[str, str], *, dvc: bool = False) -> Path:
    """A folder that looks like a clone with the given sweeps."""
    (folder / "search_spaces").mkdir(parents=True)
    for name, text in spaces.items():
        (folder / "search_spaces" / f"{name}.yaml").write_text(text)
    if dvc:
        shutil.copytree(ROOT / "pipeline", folder / "pipeline",
                        ignore=shutil.ignore_patterns("__pycache__"))  # fmt: skip
        for file in ("dvc.yaml", ".dvcignore"):
            shutil.copy(ROOT / file, folder)
        (folder / "params.yaml").write_text(json.dumps({"spaces": list(spaces)}))
        run(folder, "dvc", "init", "--no-scm", "--quiet")
    return folder


def run(folder: Path, *argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in `folder`, with this interpreter's environment and MLflow switched off."""
    scripts = str(Path(sys.executable).parent)
    env = {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder if (folder / "pipeline").exists() else ROOT),
        "MLFLOW_TRACKING_URI": "none",
        "PYTHONDONTWRITEBYTECODE": "",  # on most machines Python writes it
        **environment,
    }
    return subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True)


def pipeline(folder: Path, *argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(folder, sys.executable, "-m", "pipeline", *argv, **environment)


def outputs(folder: Path) -> dict[str, bytes]:
    """Every output of the five stages by name."""
    base = folder / "runs" / "tiny"
    return {
        str(path.relative_to(base)): path.read_bytes()
        for path in sorted(base.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which one worker has run all five stages."""
    folder = checkout(tmp_path_factory.mktemp("one"), {"tiny": TINY_DIGITS})
    done = pipeline(folder, "run", "tiny", PIPELINE_WORKERS="1")
    assert done.returncode == 0, done.stderr
    (folder / "said.txt").write_text(done.stdout)
    return folder


def test_the_outputs_are_all_there(finished: Path) -> None:
    names = set(outputs(finished))
    assert {
        "prepare/manifest.json",
        "prepare/samples.png",
        "search/trials.csv",
        "search/curves.csv",
        "search/best.json",
        "retrain/model.safetensors",
        "retrain/first_epoch.safetensors",
        "retrain/last_epoch.safetensors",
        "retrain/config.json",
        "retrain/candidates.csv",
        "retrain/history.csv",
        "retrain/winner.json",
        "evaluate/metrics.json",
        "render/report.html",
        "render/reconstructions.png",
    } <= names
    assert not [name for name in names if "/." in name]


def test_the_parts_of_the_nelbo_add_up(finished: Path) -> None:
    metrics = json.loads((finished / "runs/tiny/evaluate/metrics.json").read_text())
    for figures in (metrics, metrics["first_epoch"]):
        total = figures["recon_nats"] + figures["kl_nats"]
        assert figures["nelbo_nats"] == pytest.approx(total, abs=1e-9)
    manifest = json.loads((finished / "runs/tiny/prepare/manifest.json").read_text())
    floor = manifest["bernoulli"]["entropy_floor_nats"]["test"]
    assert metrics["excess_nats"] == pytest.approx(metrics["nelbo_nats"] - floor, abs=1e-9)
    assert metrics["nelbo_nats"] < metrics["baselines"]["mean_image_nelbo_nats"]
    assert metrics["nelbo_nats"] < metrics["first_epoch"]["nelbo_nats"]
    assert metrics["iw_nll_nats"] < metrics["nelbo_nats"]
    assert 0 < metrics["anomaly_auroc"]["hold_out"] < 1


def test_candidates_are_compared_by_what_their_trials_recorded(finished: Path) -> None:
    table = pd.read_csv(finished / "runs/tiny/retrain/candidates.csv")
    behind = table["mean_nelbo_nats"] - table["mean_nelbo_nats"].min()
    leader = behind == 0
    assert table.loc[~leader, "difference_nats"].tolist() == pytest.approx(behind[~leader].tolist())
    assert table.loc[leader, "difference_nats"].isna().all()
    assert table.loc[table["winner"], "best_or_equal"].all()


def test_run_ends_with_the_result(finished: Path) -> None:
    said = (finished / "said.txt").read_text()
    metrics = json.loads((finished / "runs/tiny/evaluate/metrics.json").read_text())
    parts = [f"{metrics[f'{name}_nats']:.2f}" for name in ("nelbo", "recon", "kl")]
    total, recon, kl = parts
    assert said.startswith(f"tiny: test NELBO {total} nats an image = reconstruction {recon} + KL")
    assert f"+ KL {kl} (" in said
    mean, sd = (metrics["seeds"][f"nelbo_nats_{name}"] for name in ("mean", "sd"))
    half = 12.706 * sd / 2**0.5  # Student's t of one degree of freedom
    low, high = (float(text) for text in re.findall(r"interval ([\d.]+) … ([\d.]+);", said)[0])
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.02)
    assert (finished / re.findall(r"report: (\S+)", said)[0]).exists()
    assert "next: the report's section Advice; more trials: raise search.trials" in said
    assert "pipeline ui" not in said, "there is no tracking to look at"
    python = re.findall(r"in Python: (.*)$", said, re.MULTILINE)[0]
    code = f"import numpy as np\n{python}\nprint(model.encode(np.zeros((3, 8, 8))).shape[1])"
    shown = run(finished, sys.executable, "-c", code)
    assert shown.stdout.strip() in ("2", "6"), shown.stderr


def test_check_says_what_it_would_cost(finished: Path) -> None:
    said = pipeline(finished, "check", "tiny").stdout
    assert "learning rate (peak, if scheduled); allowed: numbers > 0, ≤ 10" in said
    assert "optimizer; allowed: adam, adamw, adamax, rmsprop, sgd" in said
    weights = [int(text) for text in re.findall(r"weights +(\d[\d,]*) at.* (\d+) … (\d+,?\d*)",
               said.replace(",", ""))[0]]  # fmt: skip
    # (64 + 1) 64 + 2 (64 + 1) d + (d + 1) 64 + (64 + 1) 64 for d latents
    assert weights == [8320 + 130 * d + 64 * d + 64 for d in (2, 2, 6)]
    for line in ("images ", "memory ", "time ", "disk "):
        assert f"\n  {line}" in said
    assert "timed just now with the centre's setting" in said


def test_two_workers_give_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    folder = checkout(tmp_path, {"tiny": TINY_DIGITS})
    stages = ("prepare", "search", "retrain")  # the later ones start no workers
    for stage in stages:
        done = pipeline(folder, stage, "tiny", PIPELINE_WORKERS="2")
        assert done.returncode == 0, done.stderr
    ours = outputs(folder)
    kept = (*stages, "settings")
    theirs = {n: content for n, content in outputs(finished).items() if n.startswith(kept)}
    assert theirs.keys() == ours.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_no_output_names_this_machine(finished: Path) -> None:
    host = re.compile(rf"\b{re.escape(socket.gethostname())}\b".encode())
    for name, content in outputs(finished).items():
        assert str(finished).encode() not in content, name
        if name.endswith((".csv", ".json", ".html")):
            assert not host.search(content), name


def test_a_stage_asks_for_the_one_before(tmp_path: Path) -> None:
    folder = checkout(tmp_path, {"tiny": TINY_DIGITS})
    for stage, earlier in [("search", "prepare"), ("retrain", "prepare"), ("render", "prepare")]:
        done = pipeline(folder, stage, "tiny")
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert f"python -m pipeline {earlier} tiny" in done.stderr
    assert not (folder / "runs" / "tiny").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data: {name: digits}\nsearch: {trails: 3}", "search.trails"),
        ("data: {name: digits}\nparameters: {lr: {low: 1.0, high: 0.1}}", "low"),
        ("data: {name: digit}", "digits"),
        ("data: [", "YAML"),
    ],
)
def test_wrong_input_is_one_line_and_changes_nothing(tmp_path: Path, text: str, words: str) -> None:
    folder = checkout(tmp_path, {"wrong": text})
    before = sorted(folder.rglob("*"))
    done = pipeline(folder, "run", "wrong")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert done.stdout == ""
    assert sorted(folder.rglob("*")) == before


@pytest.mark.slow
def test_dvc_skips_extends_and_redraws(tmp_path: Path) -> None:
    folder = checkout(tmp_path, {"tiny": TINY_DIGITS}, dvc=True)
    assert run(folder, "dvc", "repro").returncode == 0

    again = run(folder, "dvc", "repro")
    assert re.findall(r"Running stage '(.*)'", again.stdout) == ["own_data"]

    space = folder / "search_spaces" / "tiny.yaml"
    space.write_text(space.read_text().replace("images: 4", "images: 5"))
    redrawn = run(folder, "dvc", "repro")
    ran = re.findall(r"Running stage '(.*)'", redrawn.stdout)
    assert ran == ["own_data", "settings@tiny", "render@tiny"]

    before = (folder / "runs/tiny/search/trials.csv").read_text().splitlines()
    space.write_text(space.read_text().replace("trials: 5", "trials: 7"))
    extended = run(folder, "dvc", "repro", "search@tiny")
    assert extended.returncode == 0
    assert "has 5 of 7 trials" in extended.stderr
    after = (folder / "runs/tiny/search/trials.csv").read_text().splitlines()
    assert after[: len(before)] == before
    assert len(after) == len(before) + 2


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/usr/share/datasets/fashion-mnist").exists(),
    reason="needs Debian's package dataset-fashion-mnist",
)
def test_a_slice_of_real_fashion_mnist(tmp_path: Path) -> None:
    folder = checkout(tmp_path, {"tiny": FASHION_SLICE})
    done = pipeline(folder, "run", "tiny")
    assert done.returncode == 0, done.stderr
    metrics = json.loads((folder / "runs/tiny/evaluate/metrics.json").read_text())
    assert metrics["test_images"] == 10_000
    assert metrics["baselines"]["mean_image_nelbo_nats"] == pytest.approx(385.0, abs=1.0)
    assert metrics["nelbo_nats"] < 300
    assert metrics["nelbo_nats"] - metrics["excess_nats"] == pytest.approx(189.858, abs=0.01)
