"""Searches replayed on real curves, and searches that are timed; no training."""

from __future__ import annotations

import copy
import math
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from postgres import BINARIES

from bench.growth import ROOT
from bench.optuna_policies import Optuna
from bench.search import followed, move
from pipeline.settings.space import load_space, parse_space
from pipeline.study.search.sampler import centre, distribution, encode


def test_a_search_that_cannot_run_is_an_error_and_no_slow_search(tmp_path: Path) -> None:
    broken = [sys.executable, "-c", "raise SystemExit('nothing to search with')"]
    with pytest.raises(RuntimeError, match="nothing to search with"):
        followed(broken, tmp_path, lambda: math.inf, [1.0], limit=60)
    ended = [sys.executable, "-c", "pass"]
    assert followed(ended, tmp_path, lambda: 5.0, [6.0, 4.0], limit=60)[1] == math.inf


def test_a_blind_space_has_its_centre_elsewhere_and_is_valid() -> None:
    raw = yaml.safe_load((ROOT / "search_spaces" / "fashion.yaml").read_text())
    names = parse_space("fashion", raw, "fashion.yaml").searched.keys()
    centres = []
    for seed in range(5):
        moved = copy.deepcopy(raw)
        move(moved["parameters"], random.Random(seed))
        searched = parse_space("fashion", moved, "fashion.yaml").searched
        assert searched.keys() == names
        centres.append(centre(searched))
    for name in ("lr", "latent_dim", "batch_size", "hidden"):
        assert len({str(each[name]) for each in centres}) > 1


@pytest.mark.slow
@pytest.mark.skipif(not any(BINARIES.glob("*/bin/initdb")), reason="PostgreSQL is not installed")
def test_scaling_is_measured_with_what_a_worker_calls_by_now() -> None:
    """Its trainings are made ones, in place of a worker's."""
    command = [sys.executable, "-m", "bench.scaling", "--workers", "2", "--parts", "6"]
    done = subprocess.run(
        [*command, "--seconds", "0.01"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "of ideal" in done.stdout


def test_optuna_among_the_policies_proposes_what_its_own_loop_does() -> None:
    """One worker, no pruning: `optimize` with the same seed asks for the same settings."""
    import optuna

    space = load_space(ROOT / "bench", "landscape")
    land = SimpleNamespace(number=3, epochs=2)
    peer = Optuna(space, land, 1, "tpe", "none")
    asked = []
    for _ in range(20):
        job = peer.ask()
        asked.append(job.setting)
        assert not peer.report(job, 1, 300.0)
        assert peer.report(job, 2, 1000 * job.setting["lr"])
    sampler = optuna.samplers.TPESampler(seed=3, n_startup_trials=space.search.startup_trials)
    study = optuna.create_study(sampler=sampler)
    known = {name: distribution(domain) for name, domain in space.searched.items()}
    for setting in asked:
        trial = study.ask(known)
        assert trial.params == {n: encode(space.searched[n], setting[n]) for n in known}
        study.tell(trial, min(300.0, 1000 * setting["lr"]))
