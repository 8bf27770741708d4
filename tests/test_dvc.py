"""What a person does with `dvc repro` and `dvc exp run`, by the real program."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from crews import eventually
from repository import git
from test_pipeline import ROOT, checkout, pipeline, run

from pipeline.settings.space import space_names

FASHION = Path("/usr/share/datasets/fashion-mnist")
TINY = """
data: {name: npz, path: mine.npz}
parameters: {lr: {low: 3.0e-3, high: 1.0e-2, log: true}, latent_dim: 2, hidden: [16], batch_size: 8}
search: {trials: 2, epochs: 3, parallelism: 2}
retrain: {top: 1, seeds: 1, epochs: 3}
evaluate: {iw_samples: 2, nelbo_samples: 1, probe: false}
render: {projections: [pca], points: 60, images: 4}
"""
pytestmark = pytest.mark.slow


def write_images(file: Path, seed: int = 0, count: int = 400) -> None:
    """Images (count, 28, 28) of four kinds, whose difference is learned in a few steps."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, count)
    images = np.full((count, 28, 28), 10, np.uint8)
    for image, label in zip(images, labels, strict=True):
        rows, columns = divmod(int(label), 2)
        image[14 * rows : 14 * rows + 14] = 240
        image[:, 14 * columns : 14 * columns + 14] = 200
    images += random.integers(0, 8, images.shape, dtype=np.uint8)
    np.savez(file, images=images, labels=labels)


def stages_run(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    return [line.split("'")[1] for line in lines if line.startswith("Running stage")]


def reduced(name: str, data: Path) -> dict[str, Any]:
    """A committed sweep with few images and epochs; its sections are there or not as committed."""
    space = yaml.safe_load((ROOT / "search_spaces" / f"{name}.yaml").read_text())
    space["data"] = {"name": "npz", "path": str(data)}
    less = {
        "parameters": {"batch_size": 8},
        "search": {"trials": 2, "epochs": 2, "min_epochs": 1},
        "retrain": {"top": 1, "seeds": 1, "epochs": 8},
        "evaluate": {"iw_samples": 2},
        "render": {"points": 60, "uncertainty_decodes": 4},
    }
    for section in less.keys() & space.keys():
        space[section] |= less[section]
    if "rungs" in space.get("search", {}):
        space["search"]["rungs"] = [1]
    parameters = space["parameters"]
    if "kl_warmup_epochs" in parameters:
        parameters["kl_warmup_epochs"] = 1
    if "fallback" in space.get("search", {}):
        space["search"]["fallback"]["batch_size"] = 8
    if "anomaly" in space.get("evaluate", {}):
        space["evaluate"]["anomaly"] = ["fashion-mnist"]  # MNIST is in no package of the system
    if name == "mnist":  # one sweep with the slowest of the maps is enough
        space["render"]["projections"] = ["pca"]
    return space


@pytest.mark.skipif(not FASHION.exists(), reason="needs Debian's package dataset-fashion-mnist")
@pytest.mark.parametrize("half", [0, 1])
def test_every_committed_sweep_goes_through_all_stages(half: int, tmp_path: Path) -> None:
    data = tmp_path / "mine.npz"
    write_images(data)
    names = space_names(ROOT)[half::2]
    spaces = {name: yaml.safe_dump(reduced(name, data)) for name in names}
    folder = checkout(tmp_path / "clone", spaces, dvc=True)
    ran = stages_run(run(folder, "dvc", "repro"))
    assert len(ran) == len(set(ran)) == 1 + 6 * len(names)
    for name in names:
        runs = folder / "runs" / name
        assert (runs / "render" / "report.html").exists()
        headline = json.loads((runs / "evaluate" / "headline.json").read_text())
        metrics = json.loads((runs / "evaluate" / "metrics.json").read_text())
        assert headline.items() <= metrics.items()
    assert stages_run(run(folder, "dvc", "repro")) == ["own_data"]


def test_another_table_of_kept_trials_runs_the_search_again(tmp_path: Path) -> None:
    digits = TINY.replace("{name: npz, path: mine.npz}", "{name: digits, limit: 300}")
    folder = checkout(tmp_path / "clone", {"tiny": digits}, dvc=True)
    (folder / "machine.yaml").write_text("tracking: none\n")
    stages_run(run(folder, "dvc", "repro", "retrain@tiny"))
    assert pipeline(folder, "keep", "tiny").returncode == 0
    table = "search_spaces/tiny.trials.jsonl"
    more = digits.replace("trials: 2", f"trials: 3, observations: {table}")
    (folder / "search_spaces" / "tiny.yaml").write_text(more)
    done = run(folder, "dvc", "repro", "retrain@tiny")
    ran = stages_run(done)
    assert ran[:4] == ["own_data", "settings@tiny", "search@tiny", "retrain@tiny"]
    assert "2 of 2 kept trials count" in done.stdout + done.stderr
    assert stages_run(run(folder, "dvc", "repro", "retrain@tiny")) == ["own_data"]

    assert pipeline(folder, "keep", "tiny").returncode == 0  # with the third trial
    done = run(folder, "dvc", "repro", "retrain@tiny")
    assert stages_run(done)[:3] == ["own_data", "settings@tiny", "search@tiny"]
    assert "observations: " in done.stdout + done.stderr  # why it forks
    assert "3 of 3 kept trials count" in done.stdout + done.stderr


def test_an_edit_during_a_run_is_the_next_runs(tmp_path: Path) -> None:
    write_images(tmp_path / "mine.npz")
    folder = checkout(tmp_path / "clone", {"tiny": TINY}, dvc=True)
    shutil.move(tmp_path / "mine.npz", folder)
    file = folder / "search_spaces" / "tiny.yaml"
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "MLFLOW_TRACKING_URI": "none",
    }
    with subprocess.Popen(
        ["dvc", "repro"], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    ) as repro:
        eventually((folder / "runs" / "state" / "studies").exists, "the search begins")
        file.write_text(TINY.replace("high: 1.0e-2", "high: 2.0e-2"))
        repro.communicate()
    assert repro.returncode == 0

    def recorded() -> float:
        stages = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
        space = stages["settings@tiny"]["params"]["search_spaces/tiny.yaml"]
        return space["parameters"]["lr"]["high"]

    def reported() -> tuple[bool, bool]:
        text = (folder / "runs" / "tiny" / "render" / "report.html").read_text()
        return "0.003 … 0.01," in text, "0.003 … 0.02," in text

    assert (recorded(), reported()) == (0.01, (True, False))
    ran = stages_run(run(folder, "dvc", "repro"))
    assert ran[:3] == ["own_data", "settings@tiny", "search@tiny"]
    assert "prepare@tiny" not in ran
    assert (recorded(), reported()) == (0.02, (False, True))

    file.write_text(f"{file.read_text()}model: {{likelihood: bernoulli}}\n")  # the default
    assert stages_run(run(folder, "dvc", "repro")) == ["own_data", "settings@tiny"]

    config = folder / "pipeline" / "settings" / "sections.py"
    default = "smoothing: Count = Field({}"
    config.write_text(config.read_text().replace(default.format(7), default.format(9)))
    assert stages_run(run(folder, "dvc", "repro")) == ["own_data", "settings@tiny", "render@tiny"]

    write_images(folder / "mine.npz", seed=1)
    ran = stages_run(run(folder, "dvc", "repro", "prepare@tiny"))
    assert ran == ["own_data", "settings@tiny", "prepare@tiny"]


def test_byte_code_that_another_stage_leaves_is_no_reason_to_run(tmp_path: Path) -> None:
    write_images(tmp_path / "mine.npz", count=40)
    folder = checkout(tmp_path / "clone", {"tiny": TINY}, dvc=True)
    shutil.move(tmp_path / "mine.npz", folder)
    assert stages_run(run(folder, "dvc", "repro", "prepare@tiny"))[-1] == "prepare@tiny"
    run(folder, sys.executable, "-c", "import pipeline.data.image_folder, pipeline.data.prepared")
    assert list((folder / "pipeline" / "data" / "__pycache__").glob("prepared.*"))
    assert stages_run(run(folder, "dvc", "repro", "prepare@tiny")) == ["own_data"]


def test_settings_that_change_under_a_stage_end_it(tmp_path: Path) -> None:
    write_images(tmp_path / "mine.npz")
    folder = checkout(tmp_path / "clone", {"tiny": TINY}, dvc=True)
    shutil.move(tmp_path / "mine.npz", folder)
    (folder / "pipeline" / "stages" / "prepare.py").write_text(
        "import pathlib\n"
        "def run(space, machine, paths):\n"
        "    file = pathlib.Path('search_spaces/tiny.yaml')\n"
        "    file.write_text(file.read_text().replace('path:', 'limit: 100, path:'))\n"
        "    from pipeline.settings.snapshot import take\n"
        "    take(paths)\n"  # as another terminal does
        "    paths.prepare.mkdir()\n"
    )
    done = run(folder, "dvc", "repro", "prepare@tiny")
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: prepare tiny: runs/tiny/settings/data.json changed while it ran")
    assert "prepare@tiny" not in yaml.safe_load((folder / "dvc.lock").read_text())["stages"]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A Git repository of the project whose default sweep is another one than `tiny`."""
    other = "data: {name: digits}\n"
    folder = checkout(tmp_path / "main", {"tiny": TINY, "other": other}, dvc=False)
    shutil.copytree(ROOT / "pipeline", folder / "pipeline",
                    ignore=shutil.ignore_patterns("__pycache__"))  # fmt: skip
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder)
    (folder / "params.yaml").write_text("spaces:\n  - other\n")
    write_images(folder / "mine.npz")
    (folder / "machine.yaml").write_text("tracking: none\nworkers: 1\n")
    git(folder, "init", "--quiet")
    git(folder, "config", "user.name", "tester")
    git(folder, "config", "user.email", "tester@localhost")
    assert run(folder, "dvc", "init", "--quiet").returncode == 0
    (folder / ".git" / "info" / "exclude").write_text("mine.npz\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    return folder


def test_experiments_in_copies_share_the_state_of_the_main_checkout(clone: Path) -> None:
    this = ("-S", "spaces=[tiny]", "-S", "search_spaces/tiny.yaml:search.trials=")
    (clone / "machine.yaml").write_text("tracking: none\nworkers: 1\n")
    own = {"MLFLOW_TRACKING_URI": ""}  # machine.yaml's counts
    first = run(
        clone, "dvc", "exp", "run", "--temp", *this[:3], f"{this[3]}1", "search@tiny", **own
    )
    assert "search@tiny" in stages_run(first)
    assert "other" not in first.stdout
    assert "sync" not in first.stdout + first.stderr
    assert not (clone / "runs" / "tiny").exists()
    assert (clone / "runs" / "state" / "ledger.db").exists()

    queued = run(clone, "dvc", "exp", "run", "--queue", *this[:3], f"{this[3]}2", "search@tiny")
    assert queued.returncode == 0, queued.stderr
    assert run(clone, "dvc", "exp", "run", "--run-all").returncode == 0
    status = pipeline(clone, "status", "tiny").stdout
    assert "2 complete" in status
    shown = run(clone, "dvc", "exp", "show", "--csv").stdout
    assert "Failed" not in shown


def test_a_night_is_kept_as_an_experiment(clone: Path) -> None:
    """With the budget that it had time for, and what was not committed; no stage runs again."""
    file = clone / "search_spaces" / "tiny.yaml"
    file.write_text(f"# mine\n{TINY}".replace("low: 3.0e-3", "low: 2.0e-3"))
    done = pipeline(clone, "sweep", "tiny", "--add", "1")
    assert done.returncode == 0, done.stderr
    (night,) = (clone / "runs" / "nights").iterdir()
    name = f"night-{night.name}"
    assert f"Kept as DVC's experiment {name}." in (night / "summary.md").read_text()
    assert "trials: 2" in file.read_text()
    changed = git(clone, "status", "--porcelain", "--untracked-files=no")
    assert changed == "M search_spaces/tiny.yaml"
    assert not list((clone / ".dvc" / "tmp" / "exps").glob("night-*"))

    shown = run(clone, "dvc", "exp", "show", "--csv").stdout
    (line,) = [line for line in shown.splitlines() if line.startswith(f"{name},")]
    headline = json.loads((clone / "runs" / "tiny" / "evaluate" / "headline.json").read_text())
    assert str(headline["nelbo_nats"])[:6] in line

    git(clone, "checkout", "--quiet", ".")
    kept = [path for path in (clone / "runs" / "tiny").rglob("*") if path.is_file()]
    report = (clone / "runs" / "tiny" / "render" / "report.html").read_bytes()
    shutil.rmtree(clone / "runs" / "tiny")
    applied = run(clone, "dvc", "exp", "apply", name)
    assert applied.returncode == 0, applied.stderr
    assert file.read_text().startswith("# mine\n")
    assert "trials: 1" in file.read_text()
    assert "low: 2.0e-3" in file.read_text()
    assert stages_run(run(clone, "dvc", "repro")) == ["own_data"]
    assert (clone / "runs" / "tiny" / "render" / "report.html").read_bytes() == report
    there = [path for path in (clone / "runs" / "tiny").rglob("*") if path.is_file()]
    assert {path for path in kept if path.name != "budget.json"} <= {*there}


def test_a_run_can_be_had_again_in_a_fresh_clone(clone: Path, tmp_path: Path) -> None:
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    (clone / "machine.yaml").unlink()
    git(clone, "rm", "--quiet", "--cached", "search_spaces/tiny.yaml")
    git(clone, "commit", "--quiet", "-m", "without the sweep")  # it is new to Git
    model = clone / "pipeline" / "vae" / "optimizer.py"
    model.write_text(f"{model.read_text()}\nNEW = 1\n")
    for stage in ("prepare", "search"):
        done = pipeline(clone, stage, "tiny", **store)
        assert done.returncode == 0, done.stderr
    code = (
        "import sys; from mlflow import MlflowClient; c = MlflowClient(sys.argv[1]);"
        "e = c.get_experiment_by_name('tiny').experiment_id;"
        "print([r.info.run_id for r in c.search_runs([e], \"tags.kind = 'trial'\")][0])"
    )
    run_id = run(clone, sys.executable, "-c", code, store["MLFLOW_TRACKING_URI"]).stdout.strip()
    (clone / "search_spaces" / "tiny.yaml").write_text("data: {name: digits}\n")  # edited since

    said = pipeline(clone, "where", run_id, **store).stdout
    assert "with uncommitted changes, kept with the run" in said
    again = tmp_path / "again"
    git(tmp_path, "clone", "--quiet", str(clone), "again")
    shutil.copy(clone / "mine.npz", again)
    commands = [line.strip() for line in said.splitlines() if line.startswith("    ")]
    for command in commands:
        if command != "make .venv":  # the environment of the tests is the one
            done = run(again, "bash", "-c", command)
            assert done.returncode == 0, f"{command}: {done.stderr}"
    assert model.read_text() == (again / model.relative_to(clone)).read_text()
    for name in ("trials.csv", "curves.csv", "best.json"):
        file = Path("runs") / "tiny" / "search" / name
        assert (again / file).read_bytes() == (clone / file).read_bytes()
