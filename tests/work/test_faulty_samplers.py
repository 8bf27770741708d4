"""A sampler of one's own that is faulty gets one line before an epoch is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from own_models import SAMPLER, SAMPLER_FILE, space_of

from pipeline.errors import UserError
from pipeline.settings.space import Space, load_space
from pipeline.study.identity import changes, search_study
from pipeline.study.receipt import left_out
from pipeline.study.restore import restored
from pipeline.study.sampler_faults import examine, sampler_faults

FAULTY = Path(__file__).parents[1] / "fixtures" / "faulty" / "samplers.py"
FAULTS = {
    "NoSampler": "must be a class of optuna.samplers.BaseSampler: ",
    "WithoutSeed": "WithoutSeed(seed=…) fails: TypeError: ",
    "Fails": "fails: line 40: KeyError: ",
    "Outside": "proposes lr 0.02, which is not in its range",
    "Unseeded": "asked twice, it proposes lr ",
    "Counting": "asked twice, it proposes lr ",
    "ByProcess": "two processes propose lr ",
    "BySet": "two processes propose lr ",
    "Changes": "changes the trials that it is given: ",
    "Ends": "ends its process (0): ",
    "Exits": "fails: line 90: SystemExit: 0",
    "Torch": "changes torch for the whole process (default_dtype): ",
}


def own(root: Path, name: str, source: str) -> Space:
    return space_of(root, "", sampler=source, proposes=name, family="mlp")


IN_ONE_PROCESS = sorted(FAULTS.keys() - {"ByProcess", "BySet", "Ends"})


@pytest.mark.parametrize("name", IN_ONE_PROCESS)
def test_every_fault_is_one_line(name: str, tmp_path: Path) -> None:
    line = examine(own(tmp_path, name, FAULTY.read_text()))["fault"]
    assert line.startswith(f"{SAMPLER_FILE}:{name}: {FAULTS[name]}")
    assert "\n" not in line


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FAULTS.keys() - set(IN_ONE_PROCESS)))
def test_what_shows_between_processes_is_one_line(name: str, tmp_path: Path) -> None:
    (line,) = sampler_faults(own(tmp_path, name, FAULTY.read_text()))
    assert line.startswith(f"{SAMPLER_FILE}:{name}: {FAULTS[name]}")
    assert "\n" not in line


@pytest.mark.slow
def test_a_clock_that_has_moved_on_is_seen(tmp_path: Path) -> None:
    (line,) = sampler_faults(own(tmp_path, "ByClock", FAULTY.read_text()))
    assert "propose" in line  # within one process, or in the other


@pytest.mark.slow
def test_a_sound_sampler_has_none(tmp_path: Path) -> None:
    assert list(sampler_faults(own(tmp_path, "Crossover", SAMPLER))) == []
    source = "from optuna.samplers import TPESampler\n\n\nclass Wide(TPESampler):\n"
    source += "    def __init__(self, seed):\n        super().__init__(seed=seed)\n"
    assert "answers" in examine(own(tmp_path, "Wide", source))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tpee", "must be 'tpe', 'random', 'grid', 'gp' or 'cmaes', but got 'tpee'"),
        ("optuna.samplers:QMCSampler", "optuna.samplers: must be a file of the"),
        ("none.py:Crossover", "none.py: there is no such file in "),
        ("my_samplers.py:Other", "my_samplers.py: has no class Other: there are Crossover: "),
        ("../x.py:Crossover", "must be a file in the checkout"),
    ],
)
def test_a_wrong_name_is_one_line(tmp_path: Path, name: str, message: str) -> None:
    own(tmp_path, "Crossover", SAMPLER)
    file = tmp_path / "search_spaces" / "own.yaml"
    file.write_text(f"data: {{name: digits}}\nsearch: {{sampler: '{name}'}}\n")
    with pytest.raises(UserError) as caught:
        load_space(tmp_path, "own")
    assert str(caught.value).startswith("search_spaces/own.yaml: search.sampler")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_source_is_another_search_and_the_same_candidates(tmp_path: Path) -> None:
    space = own(tmp_path, "Crossover", SAMPLER)
    one = search_study(space, "data")
    assert restored("own", one.id, one.spec, left_out(space)).search == space.search
    other = search_study(own(tmp_path, "Crossover", SAMPLER + "\n"), "data")
    assert one.id != other.id
    (said,) = changes(one.spec, other.spec)
    assert said.startswith(f"{SAMPLER_FILE}: ")
    assert one.spec["model"] == other.spec["model"]
