"""What earlier code left behind goes on working; tests/fixtures/before/README.md describes it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_pipeline import ROOT, pipeline, run

from pipeline.data.prepared import load_images
from pipeline.files import read_json
from pipeline.paths import Paths
from pipeline.settings.space import load_space, parse_space
from pipeline.settings.validation import read_yaml
from pipeline.study.identity import candidate_study, search_study
from pipeline.study.search.sampler import centre
from pipeline.study.storage.ledger import Ledger, Trial
from pipeline.vae.checkpoint import rebuild
from pipeline.vae.measure import elbo
from pipeline.vae.training import VALIDATION_SEED

BEFORE = Path(__file__).parent / "fixtures" / "before"
EXPECTED = json.loads((BEFORE / "expected.json").read_text())
SEARCH, CUT = "old-e6bae0760b80", "cut-6d97ded7eae9"
CANDIDATES = ("old-0f8e86d6fa8a", "old-e5c7555a447b")
WEIGHTS = sorted((BEFORE / "clone/runs/old/retrain").rglob("*.safetensors"))


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The folder of before, to be worked in."""
    folder = tmp_path / "clone"
    shutil.copytree(BEFORE / "clone", folder)
    (folder / "machine.yaml").write_text("workers: 1\ndevice: cpu\ntracking: none\n")
    return folder


def trials(folder: Path, study: str) -> list[Trial]:
    ledger = Ledger(f"sqlite:///{Paths(folder, 'old').ledger}")
    try:
        return ledger.trials(study)
    finally:
        ledger.close()


def ends(folder: Path, study: str) -> list[tuple[Any, ...]]:
    """What must not change of finished trials, when they were worked on included."""
    return [
        (t.number, t.state, t.parameters, t.result, t.reason, t.started_ms, t.finished_ms)
        for t in trials(folder, study)
    ]


class TestLedger:
    def test_it_opens_and_holds_what_happened(self, clone: Path) -> None:
        states = [trial.state for trial in trials(clone, SEARCH)]
        assert states == ["failed", "complete", "complete", "failed", "failed", *["pruned"] * 3]
        assert [len(trials(clone, study)) for study in CANDIDATES] == [2, 2]
        finished, running = trials(clone, CUT)
        assert (finished.state, running.state, len(running.curve)) == ("complete", "running", 4)
        assert running.owner is not None

    @pytest.mark.slow
    def test_a_search_forks_and_says_why_and_the_old_one_is_still_shown(self, clone: Path) -> None:
        before = ends(clone, SEARCH)
        assert pipeline(clone, "prepare", "old").returncode == 0  # as there was no record.json
        done = pipeline(clone, "search", "old")
        assert done.returncode == 0, done.stderr
        forks = f" forks from {SEARCH}, whose trials are not comparable: proposal_semantics: 2 → 3"
        assert forks in done.stderr.splitlines()[0]
        assert ends(clone, SEARCH) == before
        shown = pipeline(clone, "status", "old").stdout
        old = f"search {SEARCH}, of other settings than the file's: 8 trials: 0 running, 2 complete"
        assert f"{old}, 3 pruned, 0 paused" in shown


class TestIdentity:
    """A candidate's runs still count; a search is another one, as its proposals are."""

    @pytest.mark.parametrize("name", EXPECTED["studies"])
    def test_a_space_has_the_candidates_it_had(self, name: str) -> None:
        text = f"spaces/{name}.yaml"
        raw = read_yaml(BEFORE / text, text)
        if raw.get("search", {}).get("pruner") == "successive_halving":
            del raw["search"]["pruner"]
        space = parse_space(name, raw, text)
        chosen, due = centre(space.searched), EXPECTED["studies"][name]
        assert candidate_study(space, EXPECTED["data"], chosen).id == due["candidate"]
        assert search_study(space, EXPECTED["data"]).id != due["search"]

    def test_the_candidates_of_the_ledger_are_found_again(self, clone: Path) -> None:
        space = load_space(clone, "old")
        data = read_json(clone / "runs/old/prepare/manifest.json")["sha256"]
        ranking = read_json(clone / "runs/old/search/best.json")["ranking"]
        found = {candidate_study(space, data, entry["parameters"]).id for entry in ranking}
        assert set(CANDIDATES) <= found


class TestModels:
    @pytest.mark.parametrize("path", WEIGHTS, ids=lambda path: path.name)
    def test_weights_load_and_have_their_nelbo(self, path: Path) -> None:
        old = BEFORE / "clone/runs/old"
        vae = rebuild(path, read_json(old / "retrain/config.json"), "cpu")
        measured = elbo(vae, load_images(old / "prepare", "validation"), VALIDATION_SEED)
        nelbo = measured.nelbo_nats.mean().item()
        assert nelbo == pytest.approx(EXPECTED["nelbo_nats"][path.name], abs=1e-6)

    @pytest.mark.slow
    @pytest.mark.parametrize("code", ["ours", "its own"])
    def test_a_registered_model_loads_and_predicts(self, tmp_path: Path, code: str) -> None:
        """Where this project is imported already its code serves, elsewhere the model's copy."""
        with tarfile.open(BEFORE / "model.tar.gz") as packed:
            packed.extractall(tmp_path, filter="data")
        images = BEFORE / "clone/runs/old/prepare/test_images.npy"
        first = "import pipeline.tracking.model" if code == "ours" else ""
        program = (
            f"{first}\nimport json, sys, numpy, mlflow.pyfunc\n"
            "model = mlflow.pyfunc.load_model(sys.argv[1])\n"
            "images = numpy.load(sys.argv[2])[:3]\n"
            "say = lambda mode: model.predict(images, params={'mode': mode}).reshape(3, -1)\n"
            "print(json.dumps({mode: say(mode)[:, :4].tolist() for mode in sys.argv[3:]}))\n"
            "print(sys.modules['pipeline'].__file__)\n"
        )
        modes = list(EXPECTED["predictions"])
        argv = [sys.executable, "-W", "ignore", "-c", program, tmp_path, images, *modes]
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
        if code == "ours":
            environment["PYTHONPATH"] = str(ROOT)
        done = subprocess.run(argv, env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said, module = done.stdout.splitlines()[-2:]
        assert Path(module).is_relative_to(ROOT if code == "ours" else tmp_path)
        for mode, values in json.loads(said).items():
            np.testing.assert_allclose(values, EXPECTED["predictions"][mode], atol=1e-6)


@pytest.mark.slow
def test_dvc_goes_on_with_an_old_lock(clone: Path) -> None:
    """Its stages run again, as code has changed: the search anew, and the old trials stay."""
    shutil.copytree(ROOT / "pipeline", clone / "pipeline",
                    ignore=shutil.ignore_patterns("__pycache__"))  # fmt: skip
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, clone)
    before = {study: ends(clone, study) for study in (SEARCH, *CANDIDATES)}
    for command in (["init", "--no-scm", "--quiet"], ["status"], ["repro"]):
        done = run(clone, "dvc", *command)
        assert done.returncode == 0, done.stderr
    assert {study: ends(clone, study) for study in before} == before
    assert read_json(clone / "runs/old/search/best.json")["study"] != SEARCH
    assert run(clone, "dvc", "status").stdout.split() == ["own_data:", "always", "changed"]
