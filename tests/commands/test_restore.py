"""A study written back as a search space: the same study again, and its trials trained again."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from crews import DATA, Sweep, sweep

from pipeline.errors import UserError
from pipeline.results.record import write_record
from pipeline.settings.hyperparameters import Hyperparameters
from pipeline.settings.space import Space, load_space, parse_space, space_names
from pipeline.study.identity import candidate_study, search_study
from pipeline.study.receipt import left_out
from pipeline.study.restore import space_text

ROOT = Path(__file__).parents[2]
FLOATS = {"lr": (1e-5, 1.0), "beta": (0.0, 4.0), "weight_decay": (1e-7, 1e-2), "momentum": (0, 0.9)}
INTEGERS = {"latent_dim": (1, 64), "batch_size": (8, 512), "kl_warmup_epochs": (0, 9)}
CHOICES: dict[str, list[Any]] = {
    "hidden": [[512], [512, 256], [7]],
    "activation": ["relu", "silu", "leaky_relu"],
    "patience": [None, 3, 6],
    "averaging": [None, 9.0, 24.0],
    "restore_best": [True, False],
    "optimizer": ["adam", "sgd", "rmsprop"],
    "precision": ["fp32", "bf16"],
    "init": ["glorot", "torch"],
    "max_grad_norm": [None, 1e-3, 100.0],
}


def written_back(space: Space, study: Any) -> Space:
    """The space that the text of one of its studies parses to, as a file would."""
    text = space_text(space.name, study.id, study.spec, left_out(space))
    return parse_space(space.name, yaml.safe_load(text), "file")


def test_a_negative_zero_is_written_back() -> None:
    """It equals the default, but its study is another one."""
    raw = {"data": {"name": "digits"}, "parameters": {"weight_decay": -0.0}}
    space = parse_space("x", raw, "file")
    study = search_study(space, "d" * 64)
    assert search_study(written_back(space, study), "d" * 64).id == study.id


def random_space(seed: int) -> Space:
    """A space with a random part of everything that one may write."""
    draw = random.Random(seed)
    parameters: dict[str, Any] = {}
    for name, (low, high) in FLOATS.items():
        ends = sorted(draw.uniform(low, high) for _ in range(2))
        log = {"log": True} if ends[0] > 0 and draw.random() < 0.5 else {}
        parameters[name] = draw.choice([ends[0], {"low": ends[0], "high": ends[1], **log}])
    for name, (low, high) in INTEGERS.items():
        ends = sorted(draw.sample(range(low, high + 1), 2))
        step = {"step": ends[1] - ends[0]} if draw.random() < 0.5 else {}
        parameters[name] = draw.choice([ends[0], {"low": ends[0], "high": ends[1], **step}])
    for name, values in CHOICES.items():
        some = draw.sample(values, draw.randint(1, len(values)))
        parameters[name] = draw.choice([some[0], {"choices": some}])
    optimizer = parameters["optimizer"]
    if isinstance(optimizer, dict) and isinstance(parameters["momentum"], dict):
        wanted = optimizer["choices"]
        parameters["momentum"]["when"] = {"optimizer": draw.choice([wanted[0], wanted])}
    kept = draw.sample(sorted(parameters), draw.randint(1, len(parameters)))
    chosen = {name: parameters[name] for name in kept}
    if isinstance(chosen.get("momentum"), dict) and "optimizer" not in chosen:
        del chosen["momentum"]
    two = draw.random() < 0.3
    search = {
        "sampler": draw.choice(["tpe", "random", "gp"]),
        "objectives": ["kl_nats", "recon_nats"] if two else ["nelbo_nats"],
        "pruner": "none" if two else draw.choice(["median", "percentile", "rungs"]),
        "percentile": draw.uniform(1, 99),
        "total_epochs": draw.choice([None, 500]),
        "trials": draw.randint(1, 99),
        "seed": draw.randrange(2**63),
        "fallback": draw.choice([None, {"lr": 1e-4}]),
    }
    if search["sampler"] == "gp" and search["pruner"] == "rungs":
        search["pruner"] = "none"
    raw = {
        "data": {"name": "digits", "limit": draw.choice([None, 300])},
        "model": draw.choice([{}, {"likelihood": "gaussian", "sigma": draw.uniform(0.1, 2)}]),
        "parameters": chosen,
        "search": search,
        "retrain": {"top": draw.randint(1, 20)},
    }
    return parse_space("any", raw, "file")


@pytest.mark.parametrize("name", space_names(ROOT))
def test_every_shipped_space_comes_back_from_its_studies(name: str) -> None:
    space = load_space(ROOT, name)
    study = search_study(space, DATA)
    again = written_back(space, study)
    assert search_study(again, DATA) == study
    defaults_left_out = {"fixed": again.fixed}
    assert again == space.model_copy(update=defaults_left_out)
    assert again.hyperparameters({}) == space.hyperparameters({})


@pytest.mark.parametrize("seed", range(100))
def test_a_random_space_comes_back_from_its_study(seed: int) -> None:
    space = random_space(seed)
    study = search_study(space, DATA)
    again = written_back(space, study)
    assert search_study(again, DATA) == study
    assert list(again.searched) == list(space.searched)  # proposals are drawn in this order
    assert (again.search, again.data, again.retrain) == (space.search, space.data, space.retrain)


@pytest.mark.parametrize("seed", range(20))
def test_a_candidate_comes_back_as_the_one_setting_of_a_space(seed: int) -> None:
    space, draw = random_space(seed), random.Random(seed)
    chosen = {
        name: draw.choice(domain.grid()) if hasattr(domain, "choices") else domain.middle()
        for name, domain in space.searched.items()
        if not domain.when
    }
    study = candidate_study(space, DATA, chosen)
    again = written_back(space, study)
    assert candidate_study(again, DATA, {}).spec == study.spec
    assert not again.searched


def test_a_study_of_other_semantics_is_not_passed_off_as_one_of_ours() -> None:
    space = parse_space("tiny", sweep(), "file")
    study = search_study(space, DATA)
    spec = {**study.spec, "training_semantics": 1}
    with pytest.raises(UserError, match="training_semantics: 1 → "):
        space_text("tiny", study.id, spec, left_out(space))


def test_the_defaults_are_those_of_the_hyperparameters() -> None:
    """A default that changes must fork studies, not change what is written back."""
    space = parse_space("tiny", sweep(), "file")
    study = search_study(space, DATA)
    assert study.spec["fixed"].keys() | study.spec["searched"].keys() == set(
        Hyperparameters.model_fields
    )


def command(made: Sweep, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *words],
        cwd=made.root,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def searched(tiny: Sweep) -> Sweep:
    """A sweep with a search and a candidate's runs in its ledger."""
    ledger = tiny.ledger
    for settings in ((), ({"lr": 0.02},)):
        for study in tiny.candidates(*settings) or [tiny.study]:
            ledger.open_study(study.id, "tiny", study.kind, study.spec, left_out(tiny.space))
        assert tiny.worker(ledger, *settings).work() == 0
    return tiny


@pytest.mark.slow
def test_any_trial_of_the_ledger_is_trained_again_whatever_the_file_says_by_now(
    searched: Sweep,
) -> None:
    edited = sweep(search={"epochs": 3}, parameters={"latent_dim": 2})
    (searched.root / "search_spaces" / "tiny.yaml").write_text(yaml.safe_dump(edited))
    candidate = searched.candidates({"lr": 0.02})[0]
    trials = [*searched.trials(), *searched.trials(candidate)]
    some = {trial.state: trial for trial in trials if trial.curve} | {"run": trials[-1]}
    assert some.keys() >= {"complete", "paused", "failed"}
    for trial in some.values():
        done = command(searched, "reproduce", "tiny", str(trial.number), "--study", trial.study)
        assert done.stdout == (
            f"trial {trial.number} is identical in all {len(trial.curve)} epochs"
            f"{', after which it is paused' if trial.state == 'paused' else ''}\n"
        ), done.stderr
    written = command(searched, "space", searched.study.id)
    (searched.root / "search_spaces" / "tiny.yaml").write_text(written.stdout)
    again = load_space(searched.root, "tiny")
    assert search_study(again, DATA).id == searched.study.id
    assert again == searched.space


@pytest.mark.slow
def test_a_trial_of_other_data_or_of_no_study_is_refused_in_one_line(searched: Sweep) -> None:
    study = searched.study.id
    manifest = searched.paths.prepare / "manifest.json"
    manifest.write_text(manifest.read_text().replace(DATA, "e" * 64))
    write_record(searched.paths.prepare, "prepare", searched.space, {})
    done = command(searched, "reproduce", "tiny", "0", "--study", study)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: reproduce tiny: study {study} is of data dddddddddddd, but runs/tiny/prepare holds"
        f" eeeeeeeeeeee: write its space back (`python -m pipeline space {study}`), then run"
        " `python -m pipeline prepare tiny`\n"
    )
    done = command(searched, "space", "tiny-0123456789ab")
    assert done.returncode == 2
    assert done.stderr == (
        "error: the ledger has no study tiny-0123456789ab: `python -m pipeline status` lists them"
        " all\n"
    )
