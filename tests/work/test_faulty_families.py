"""A family that would spoil a search gets one line before an epoch is trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from own_models import EXAMPLE, FILE, space_of
from test_pipeline import pipeline

from pipeline.work.own import family_faults
from pipeline.work.trainings import TrialFailed

if TYPE_CHECKING:
    from crews import Sweep

FAULTY = Path(__file__).parents[1] / "fixtures" / "faulty" / "faulty.py"
FAULTS = {
    "WrongShape": "the decoder must give (4, 1, 8, 8) for 4 images, but gives (4, 64)",
    "WrongWidth": "the encoder must give (4, 24) for 4 images, but gives (4, 23)",
    "NoWidth": "encoder() must give a module and its width, but gives Sequential(",
    "HiddenRandomness": "the encoder is not deterministic: another answer to the same batch",
    "Dropout": "is not deterministic in training: random numbers of its own, as dropout draws",
    "ForeignWeights": "draws other weights under the same seed",
    "State": "the encoder keeps state between calls: another answer after another batch",
    "TrainingState": "keeps state between calls that no checkpoint has: make it a buffer",
    "MeasuredState": "keeps state between calls that no checkpoint has: make it a buffer",
    "InPlace": "the encoder changes its input in place",
    "BatchDependent": "the encoder depends on the batch when it measures",
    "Unused": "encoder.body.0.spare.weight has no effect: it is never used",
    "NotANumber": "the encoder gives NaN or infinite numbers",
    "NotAGradient": "gets a gradient of NaN or infinite numbers",
    "OneWidth": "fails: line 172: ValueError: 64 is too wide",
    "Valued": "cannot be counted on torch's device `meta`",
}


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_is_one_line(name: str, tmp_path: Path) -> None:
    width = {"low": 8, "high": 64, "log": True}
    space = space_of(tmp_path, FAULTY.read_text(), family=f"{FILE}:{name}", width=width)
    (line,) = family_faults(space, (1, 8, 8))
    assert line.startswith(f"{FILE}:{name} (latent_dim 16, width ")
    assert FAULTS[name] in line
    assert "\n" not in line
    assert ("width 64" in line) == (name == "OneWidth")


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 7), (3, 32, 32)])
def test_a_sound_family_has_none(shape: tuple[int, int, int], tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    space = space_of(tmp_path, EXAMPLE, width={"choices": [4, 6]}, blocks={"choices": [0, 1, 2]})
    assert list(family_faults(space, shape)) == []
    both = {"choices": ["conv_pool", f"{FILE}:ResidualVAE"]}
    assert list(family_faults(space_of(tmp_path, EXAMPLE, family=both), shape)) == []
    assert torch.equal(before, torch.random.get_rng_state())


def test_check_and_search_refuse_it(tmp_path: Path) -> None:
    width = {"low": 8, "high": 64, "log": True}
    space_of(tmp_path, FAULTY.read_text(), family=f"{FILE}:OneWidth", width=width)
    (tmp_path / "machine.yaml").write_text("device: cpu\n")
    line = f"{FILE}:OneWidth (latent_dim 16, width 64): {FAULTS['OneWidth']}"
    checked = pipeline(tmp_path, "check", "own")
    assert (checked.returncode, checked.stdout.splitlines()[-1]) == (2, line)
    assert checked.stderr == f"error: check own: {line}: correct it\n"
    assert pipeline(tmp_path, "prepare", "own").returncode == 0
    searched = pipeline(tmp_path, "search", "own")
    assert searched.returncode == 2
    assert searched.stderr.startswith(f"error: {line}: correct it")
    assert not (tmp_path / "runs" / "own" / "search").exists()
    assert not (tmp_path / "runs" / "state" / "studies").exists()


def test_a_file_that_ends_the_process_is_refused(tmp_path: Path) -> None:
    """As a script does; the command would have ended with exit code 0 and without a word."""
    space_of(tmp_path, EXAMPLE + "\nraise SystemExit(0)\n")
    (tmp_path / "machine.yaml").write_text("device: cpu\n")
    for command in ("check", "prepare", "search"):
        done = pipeline(tmp_path, command, "own")
        assert done.returncode == (0 if command == "prepare" else 2), done.stderr
    line = len(EXAMPLE.splitlines()) + 2
    assert f"{FILE}: line {line}: SystemExit: 0: correct it" in done.stderr


def test_a_model_that_ends_the_process_fails_its_trial(tiny: Sweep) -> None:
    """Its worker would have left as if nothing were left to do."""
    failures = tiny.worker().trainer.failures()
    with pytest.raises(TrialFailed, match="SystemExit: 0"), failures:
        raise SystemExit(0)


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("torch.set_default_dtype(torch.float64)", "default_dtype"),
        ("torch.set_flush_denormal(True)", "flush_denormal"),
        ("torch.set_num_threads(torch.get_num_threads() + 1)", "num_threads"),
    ],
)
def test_what_changes_the_process_is_refused(tmp_path: Path, statement: str, what: str) -> None:
    """Whether the trials of another family see it would depend on what a worker did before."""
    before = torch.get_default_dtype(), torch.get_num_threads()
    space = space_of(tmp_path, f"{EXAMPLE}\nimport torch\n{statement}\n")
    (line,) = family_faults(space, (1, 8, 8))
    assert f"changes torch for the whole process ({what})" in line
    assert before == (torch.get_default_dtype(), torch.get_num_threads())
