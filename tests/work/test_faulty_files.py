"""What would spoil a sweep in a Python file of one's own is one line before an epoch is trained."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from own_models import (
    EXAMPLE,
    FAMILY,
    FILE,
    LIKELIHOOD,
    LIKELIHOOD_FILE,
    METRICS,
    METRICS_FILE,
    SAMPLER,
    SAMPLER_FILE,
    space_of,
)
from test_pipeline import pipeline

from pipeline.api.comparison import _settings
from pipeline.errors import UserError
from pipeline.settings.space import Space, load_space
from pipeline.study.identity import changes, search_study
from pipeline.study.receipt import left_out
from pipeline.study.restore import restored
from pipeline.study.search.sampler_faults import examine as examine_sampler
from pipeline.study.search.sampler_faults import sampler_faults
from pipeline.vae.likelihood import _WITHOUT_SIGMA, OptimalGaussian
from pipeline.vae.likelihood_faults import examine
from pipeline.vae.model import build
from pipeline.vae.setting import read_architecture
from pipeline.work.own import family_faults, own_faults

FAULTY = Path(__file__).parents[1] / "fixtures" / "faulty"
GREY = (1, 8, 8)
WIDTH = {"low": 8, "high": 64, "log": True}


def family(root: Path, name: str) -> list[str]:
    source = (FAULTY / "faulty.py").read_text()
    return list(family_faults(space_of(root, source, family=f"{FILE}:{name}", width=WIDTH), GREY))


def likelihood(root: Path, name: str) -> list[str]:
    source = (FAULTY / "likelihoods.py").read_text()
    return list(own_faults(space_of(root, likelihood=source, name=name), GREY))


def metric(root: Path, name: str) -> list[str]:
    named = {"metrics": [f"{METRICS_FILE}:sound", f"{METRICS_FILE}:{name}"]}
    source = (FAULTY / "metrics.py").read_text()
    return list(own_faults(space_of(root, metrics=source, evaluate=named), GREY))


def own(root: Path, name: str, source: str) -> Space:
    return space_of(root, "", sampler=source, proposes=name, family="mlp")


def sampler(root: Path, name: str) -> list[str]:
    """As one process of the two that examine it."""
    return [examine_sampler(own(root, name, (FAULTY / "samplers.py").read_text()))["fault"]]


def sampler_by_two(root: Path, name: str) -> list[str]:
    return list(sampler_faults(own(root, name, (FAULTY / "samplers.py").read_text())))


FAMILIES = {
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
LIKELIHOODS = {
    "Other": "must be a class of pipeline.vae.likelihood.Likelihood: derive it from that",
    "NoMean": "has no method mean: define it",
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
MEASURES = {
    "fails": "fails: line 19: ZeroDivisionError: ",
    "infinite": "must give finite numbers, but gives inf: ",
    "nan": "must give finite numbers, but gives nan: ",
    "nothing": "must give a number, or numbers by name, but gives None: ",
    "array": "must give a number, or numbers by name, but gives array([",
    "random": "is not deterministic: ",
    "counting": "is not deterministic: {'calls': 0.0} and then {'calls': 1.0} of the same images: ",
    "in_place": "changes its input `images` in place: ",
    "trains": "changes its input `model` in place: ",
}
SAMPLERS = {
    "NoSampler": "must be a class of optuna.samplers.BaseSampler: ",
    "WithoutSeed": "WithoutSeed(seed=…) fails: TypeError: ",
    "Fails": "fails: line 40: KeyError: ",
    "Outside": "proposes lr 0.02, which is not in its range",
    "Unseeded": "asked twice, it proposes lr ",
    "Counting": "asked twice, it proposes lr ",
    "Changes": "changes the trials that it is given: ",
    "Exits": "fails: line 90: SystemExit: 0",
    "Torch": "changes torch for the whole process (default_dtype): ",
}
BETWEEN_PROCESSES = {
    "ByProcess": "two processes propose lr ",
    "BySet": "two processes propose lr ",
    "Ends": "ends its process (0): ",
}
KINDS: list[tuple[Callable[[Path, str], list[str]], str, dict[str, str]]] = [
    (family, FILE, FAMILIES),
    (likelihood, LIKELIHOOD_FILE, LIKELIHOODS),
    (metric, METRICS_FILE, MEASURES),
    (sampler, SAMPLER_FILE, SAMPLERS),
    (sampler_by_two, SAMPLER_FILE, BETWEEN_PROCESSES),
]


@pytest.mark.parametrize(
    ("faults", "file", "name", "fault"),
    [
        pytest.param(
            kind, file, name, fault, id=f"{kind.__name__}-{name}",
            marks=[pytest.mark.slow] if kind is sampler_by_two else [],
        )
        for kind, file, table in KINDS for name, fault in table.items()
    ],
)  # fmt: skip
def test_every_fault_is_one_line(
    faults: Callable[[Path, str], list[str]], file: str, name: str, fault: str, tmp_path: Path
) -> None:
    (line,) = faults(tmp_path, name)
    if faults is family:  # it says with which setting
        setting, _, said = line.partition("): ")
        assert setting.startswith(f"{file}:{name} (latent_dim 16, width ")
        assert fault in said
        assert ("width 64" in setting) == (name == "OneWidth")
    else:
        assert line.startswith(f"{file}:{name}: {fault}")
    assert "\n" not in line


ENDS = [
    ("raise SystemExit(0)", "SystemExit: 0"),
    ("torch.set_default_dtype(torch.float64)", "for the whole process (default_dtype)"),
    ("torch.set_flush_denormal(True)", "for the whole process (flush_denormal)"),
    ("torch.set_num_threads(torch.get_num_threads() + 1)", "for the whole process (num_threads)"),
]
CONSTANT = "    def constant(self, mean_image):\n"
MEASURE = "import torch\ndef own(tested):\n"
FILES: dict[str, tuple[str, Callable[[str], dict[str, Any]]]] = {
    "family": (FILE, lambda s: {"source": f"{EXAMPLE}\nimport torch\n{s}\n"}),
    "likelihood": (
        LIKELIHOOD_FILE, lambda s: {"likelihood": f"{LIKELIHOOD}\n{s}\n", "family": "mlp"}),
    "a method of a likelihood": (
        LIKELIHOOD_FILE,
        lambda s: {"likelihood": LIKELIHOOD.replace(CONSTANT, f"{CONSTANT}        {s}\n"),
                   "family": "mlp"}),
    "metrics": (
        METRICS_FILE,
        lambda s: {"metrics": f"{MEASURE}    return 1.0\n{s}\n", "family": "mlp"}),
    "a metric": (
        METRICS_FILE,
        lambda s: {"metrics": f"{MEASURE}    {s}\n    return 1.0\n", "family": "mlp"}),
}  # fmt: skip


@pytest.mark.parametrize(("statement", "message"), ENDS)
@pytest.mark.parametrize("where", FILES)
def test_what_ends_or_changes_the_process_is_refused(
    tmp_path: Path, statement: str, message: str, where: str
) -> None:
    """Whether other trials see it would depend on what a worker did before."""
    file, made = FILES[where]
    space = space_of(tmp_path, **made(statement), evaluate={"metrics": [f"{METRICS_FILE}:own"]})
    before = torch.get_default_dtype(), torch.get_num_threads()
    (line,) = own_faults(space, GREY)
    assert line.startswith(file)
    assert message in line
    assert "\n" not in line
    assert before == (torch.get_default_dtype(), torch.get_num_threads())


NAMES = {
    "model: {likelihood: '%s'}": [
        ("StudentT", "model.likelihood: must be 'bernoulli', "),
        ("none.py:StudentT", "model.likelihood: none.py: there is no such file"),
        ("my_likelihoods.py:LOG", "my_likelihoods.py: has no class LOG: there are St"),
    ],
    "evaluate: {metrics: [%s]}": [
        ("sharpness", "metrics.0: must be FILE.py:NAME, a function or class of it, but got 'sh"),
        ("", "evaluate.metrics: must have at least 1 entry"),
        ("none.py:f", "evaluate.metrics: none.py: there is no such file in "),
        ("my_metrics.py:f", "my_metrics.py: has no function f: there are sharpness, errors, _ed"),
        ("../x.py:f", "must be a file in the checkout"),
        ("my_metrics.py:errors, my_metrics.py:errors", "two are called errors: rename one"),
    ],
    "search: {sampler: '%s'}": [
        ("tpee", "must be 'tpe', 'random', 'grid', 'gp' or 'cmaes', but got 'tpee'"),
        ("optuna.samplers:QMCSampler", "optuna.samplers: must be a file of the"),
        ("none.py:Crossover", "none.py: there is no such file in "),
        ("my_samplers.py:Other", "my_samplers.py: has no class Other: there are Crossover: "),
        ("../x.py:Crossover", "must be a file in the checkout"),
    ],
}


@pytest.mark.parametrize(
    ("section", "name", "message"),
    [(section, *each) for section, names in NAMES.items() for each in names],
)
def test_a_wrong_name_is_one_line(tmp_path: Path, section: str, name: str, message: str) -> None:
    space_of(tmp_path, likelihood=LIKELIHOOD, metrics=METRICS, sampler=SAMPLER)
    file = tmp_path / "search_spaces" / "own.yaml"
    file.write_text(f"data: {{name: digits}}\n{section % name}\n")
    with pytest.raises(UserError) as caught:
        load_space(tmp_path, "own")
    text = str(caught.value)
    assert text.startswith(f"search_spaces/own.yaml: {section.partition(':')[0]}")
    assert message in text
    assert "\n" not in text


class TestSound:
    """What is sound has no fault, and leaves the process as it was."""

    @pytest.mark.parametrize("shape", [GREY, (3, 9, 7), (3, 32, 32)])
    def test_families(self, shape: tuple[int, int, int], tmp_path: Path) -> None:
        before = torch.random.get_rng_state()
        space = space_of(
            tmp_path, EXAMPLE, width={"choices": [4, 6]}, blocks={"choices": [0, 1, 2]}
        )
        assert list(family_faults(space, shape)) == []
        both = {"choices": ["conv_pool", f"{FILE}:ResidualVAE"]}
        assert list(family_faults(space_of(tmp_path, EXAMPLE, family=both), shape)) == []
        assert torch.equal(before, torch.random.get_rng_state())

    @pytest.mark.parametrize("shape", [GREY, (3, 9, 7)])
    def test_likelihoods_and_metrics(self, shape: tuple[int, int, int], tmp_path: Path) -> None:
        before = torch.random.get_rng_state()
        for name in (FAMILY, "mlp"):
            space = space_of(tmp_path, likelihood=LIKELIHOOD, family=name)
            assert list(own_faults(space, shape)) == []
        for kind in (*_WITHOUT_SIGMA.values(), OptimalGaussian):  # ours have the same form
            with torch.random.fork_rng(devices=[]):
                examine(kind, shape)
        space = space_of(tmp_path, metrics=METRICS)
        assert len(space.evaluate.metrics or []) == 2
        assert list(own_faults(space, shape)) == []
        assert torch.equal(before, torch.random.get_rng_state())

    @pytest.mark.slow
    def test_samplers(self, tmp_path: Path) -> None:
        assert list(sampler_faults(own(tmp_path, "Crossover", SAMPLER))) == []
        source = "from optuna.samplers import TPESampler\n\n\nclass Wide(TPESampler):\n"
        source += "    def __init__(self, seed):\n        super().__init__(seed=seed)\n"
        assert "answers" in examine_sampler(own(tmp_path, "Wide", source))


def test_a_sampler_that_never_answers_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.study.search.sampler_faults.SECONDS", 0.5)
    (line,) = sampler_by_two(tmp_path, "Hangs")
    assert line == (
        f"{SAMPLER_FILE}:Hangs: has not made 6 proposals in 0.5 s: a worker would wait for it"
        " before every trial"
    )


@pytest.mark.parametrize("where", FILES)
def test_what_never_answers_is_one_line_of_check(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, made = FILES[where]
    named = {"metrics": [f"{METRICS_FILE}:own"]}
    space = space_of(tmp_path, **made("while True: pass"), evaluate=named)
    monkeypatch.setattr("pipeline.own_code.SECONDS", 0.5)
    before = signal.getsignal(signal.SIGALRM)
    (line,) = own_faults(space, GREY)
    assert re.fullmatch(rf"{file}.*: line \d+: has not answered within 0.5 s", line)
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.slow
def test_a_clock_that_has_moved_on_is_seen(tmp_path: Path) -> None:
    (line,) = sampler_by_two(tmp_path, "ByClock")
    assert "propose" in line  # within one process, or in the other


def test_check_and_search_refuse_it(tmp_path: Path) -> None:
    (line,) = family(tmp_path, "OneWidth")
    (tmp_path / "machine.yaml").write_text("device: cpu\n")
    checked = pipeline(tmp_path, "check", "own")
    assert (checked.returncode, checked.stdout.splitlines()[-1]) == (2, line)
    assert checked.stderr == f"error: check own: {line}: correct it\n"
    assert pipeline(tmp_path, "prepare", "own").returncode == 0
    searched = pipeline(tmp_path, "search", "own")
    assert searched.returncode == 2
    assert searched.stderr.startswith(f"error: {line}: correct it")
    assert not (tmp_path / "runs" / "own" / "search").exists()
    assert not (tmp_path / "runs" / "state" / "studies").exists()


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("import pytest; pytest.skip('no GPU', allow_module_level=True)", "Skipped: no GPU"),
    ],
)
def test_a_file_that_ends_the_process_is_refused_by_commands(
    tmp_path: Path, end: str, said: str
) -> None:
    """As a script or a test does; the command would have ended without a word, or with many."""
    space_of(tmp_path, f"{EXAMPLE}\n{end}\n")
    (tmp_path / "machine.yaml").write_text("device: cpu\n")
    for command in ("check", "prepare", "search"):
        done = pipeline(tmp_path, command, "own")
        assert done.returncode == (0 if command == "prepare" else 2), done.stderr
    line = len(EXAMPLE.splitlines()) + 2
    assert f"{FILE}: line {line}: {said}: correct it" in done.stderr


def test_the_source_of_a_likelihood_is_part_of_what_is_compared(tmp_path: Path) -> None:
    one = space_of(tmp_path, likelihood=LIKELIHOOD, family="mlp")
    other = space_of(tmp_path, likelihood=LIKELIHOOD.replace("0.1", "0.2"), family="mlp")
    assert search_study(one, "d").id != search_study(other, "d").id
    assert _settings(one) != _settings(other)
    vae = build((1, 8, 8), read_architecture(one.record({})), 0)
    assert type(vae.likelihood).__name__ == "StudentT"


def test_another_sampler_is_another_search_and_the_same_candidates(tmp_path: Path) -> None:
    space = own(tmp_path, "Crossover", SAMPLER)
    one = search_study(space, "data")
    assert restored("own", one.id, one.spec, left_out(space)).search == space.search
    other = search_study(own(tmp_path, "Crossover", SAMPLER + "\n"), "data")
    assert one.id != other.id
    (said,) = changes(one.spec, other.spec)
    assert said.startswith(f"{SAMPLER_FILE}: ")
    assert one.spec["model"] == other.spec["model"]
