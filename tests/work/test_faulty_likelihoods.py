"""A likelihood of one's own that would spoil a search gets one line before an epoch is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from own_models import FAMILY, LIKELIHOOD, LIKELIHOOD_FILE, space_of

from pipeline.api.comparison import _settings
from pipeline.errors import UserError
from pipeline.settings.space import load_space
from pipeline.study.identity import search_study
from pipeline.vae.likelihood import _WITHOUT_SIGMA, OptimalGaussian
from pipeline.vae.likelihood_faults import examine
from pipeline.vae.model import build
from pipeline.vae.setting import read_architecture
from pipeline.work.own import own_faults

FAULTY = Path(__file__).parents[1] / "fixtures" / "faulty" / "likelihoods.py"
FAULTS = {
    "Other": "must be a class of pipeline.vae.likelihood.Likelihood: derive it from that",
    "NoMaps": "maps must be a whole number from 1, but is 0",
    "Weighted": "log_sigma is a parameter: what is trained belongs to the family",
    "ForAll": "nll must give (4,), but gives ()",
    "NotANumber": "nll gives NaN or infinite numbers",
    "InPlace": "nll changes its input in place",
    "Random": "nll is not deterministic: another answer to the same images",
    "OfTheBatch": "nll depends on the batch when it measures",
    "NoGradient": "nll has no gradient",
    "OtherGradient": "nll has a gradient that is not its own",
    "WideMean": "mean must give (4, 1, 8, 8), but gives (4, 2, 8, 8)",
    "OwnRandomness": "sample is not deterministic: draw from the generator that it is given",
    "OtherMean": "the average of samples is not the mean",
    "OtherConstant": "constant must give the output whose mean is the image",
    "Unnormalized": "its probabilities integrate to 0.752 over real, not to 1",
    "NoSupport": "support must be levels, binary, unit, real or None, not 'pixels'",
    "Fails": "fails: line 116: NotImplementedError: later",
    "OwnState": "keeps state between calls that no checkpoint has: make it a buffer",
}


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_is_one_line(name: str, tmp_path: Path) -> None:
    space = space_of(tmp_path, likelihood=FAULTY.read_text(), name=name)
    (line,) = own_faults(space, (1, 8, 8))
    assert line.startswith(f"{LIKELIHOOD_FILE}:{name}: {FAULTS[name]}")
    assert "\n" not in line


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 7)])
def test_a_sound_one_has_none(shape: tuple[int, int, int], tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    for family in (FAMILY, "mlp"):
        assert (
            list(own_faults(space_of(tmp_path, likelihood=LIKELIHOOD, family=family), shape)) == []
        )
    for kind in (*_WITHOUT_SIGMA.values(), OptimalGaussian):  # ours have the same form
        with torch.random.fork_rng(devices=[]):
            examine(kind, shape)
    assert torch.equal(before, torch.random.get_rng_state())


def test_its_source_is_part_of_what_is_compared(tmp_path: Path) -> None:
    one = space_of(tmp_path, likelihood=LIKELIHOOD, family="mlp")
    other = space_of(tmp_path, likelihood=LIKELIHOOD.replace("0.1", "0.2"), family="mlp")
    assert search_study(one, "d").id != search_study(other, "d").id
    assert _settings(one) != _settings(other)
    vae = build((1, 8, 8), read_architecture(one.record({})), 0)
    assert type(vae.likelihood).__name__ == "StudentT"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("StudentT", "likelihood: must be 'bernoulli', "),
        ("none.py:StudentT", "likelihood: none.py: there is no such file"),
        ("my_likelihoods.py:LOG", "likelihood: my_likelihoods.py: has no class LOG: there are St"),
    ],
)
def test_a_wrong_name_is_one_line(tmp_path: Path, name: str, message: str) -> None:
    space_of(tmp_path, likelihood=LIKELIHOOD)
    file = tmp_path / "search_spaces" / "own.yaml"
    file.write_text(f"data: {{name: digits}}\nmodel: {{likelihood: {name!r}}}\n")
    with pytest.raises(UserError) as caught:
        load_space(tmp_path, "own")
    assert str(caught.value).startswith(f"search_spaces/own.yaml: model.{message}")


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("torch.set_default_dtype(torch.float64)", "for the whole process (default_dtype)"),
        ("torch.set_flush_denormal(True)", "for the whole process (flush_denormal)"),
    ],
)
@pytest.mark.parametrize("where", ["file", "method"])
def test_what_ends_or_changes_the_process_is_refused(
    tmp_path: Path, statement: str, message: str, where: str
) -> None:
    method = "    def constant(self, mean_image):\n"
    assert method in LIKELIHOOD
    text = LIKELIHOOD.replace(method, f"{method}        {statement}\n")
    if where == "file":
        text = f"{LIKELIHOOD}\n{statement}\n"
    before = torch.get_default_dtype()
    (line,) = own_faults(space_of(tmp_path, likelihood=text, family="mlp"), (1, 8, 8))
    assert line.startswith(LIKELIHOOD_FILE)
    assert message in line
    assert "\n" not in line
    assert torch.get_default_dtype() == before
