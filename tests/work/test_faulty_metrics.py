"""A metric of one's own that is faulty gets one line before an epoch is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from own_models import METRICS, METRICS_FILE, space_of

from pipeline.errors import UserError
from pipeline.settings.space import load_space
from pipeline.work.own import own_faults

FAULTY = Path(__file__).parents[1] / "fixtures" / "faulty" / "metrics.py"
FAULTS = {
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


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_is_one_line(name: str, tmp_path: Path) -> None:
    named = {"metrics": [f"{METRICS_FILE}:sound", f"{METRICS_FILE}:{name}"]}
    space = space_of(tmp_path, metrics=FAULTY.read_text(), evaluate=named)
    (line,) = own_faults(space, (1, 8, 8))
    assert line.startswith(f"{METRICS_FILE}:{name}: {FAULTS[name]}")
    assert "\n" not in line


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 7)])
def test_a_sound_metric_has_none(shape: tuple[int, int, int], tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    space = space_of(tmp_path, metrics=METRICS)
    assert len(space.evaluate.metrics or []) == 2
    assert list(own_faults(space, shape)) == []
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("[sharpness]", "metrics.0: must be FILE.py:NAME, a function or class of it, but got 'sh"),
        ("[]", "evaluate.metrics: must have at least 1 entry"),
        ("[none.py:f]", "evaluate.metrics: none.py: there is no such file in "),
        ("[my_metrics.py:f]", "my_metrics.py: has no function f: there are sharpness, errors, _ed"),
        ("[../x.py:f]", "must be a file in the checkout"),
        ("[my_metrics.py:errors, my_metrics.py:errors]", "two are called errors: rename one"),
    ],
)
def test_a_wrong_name_is_one_line(tmp_path: Path, names: str, message: str) -> None:
    space_of(tmp_path, metrics=METRICS)
    file = tmp_path / "search_spaces" / "own.yaml"
    file.write_text(f"data: {{name: digits}}\nevaluate: {{metrics: {names}}}\n")
    with pytest.raises(UserError) as caught:
        load_space(tmp_path, "own")
    assert str(caught.value).startswith("search_spaces/own.yaml: evaluate")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("torch.set_default_dtype(torch.float64)", "for the whole process (default_dtype)"),
        ("torch.set_flush_denormal(True)", "for the whole process (flush_denormal)"),
    ],
)
@pytest.mark.parametrize("indent", ["", "    "])
def test_what_ends_or_changes_the_process_is_refused(
    tmp_path: Path, statement: str, message: str, indent: str
) -> None:
    rest = ["    return 1.0", f"{indent}{statement}"]  # in the function, or behind it
    lines = ["import torch", "def own(tested):", *(reversed(rest) if indent else rest), ""]
    text = "\n".join(lines)
    named = {"metrics": [f"{METRICS_FILE}:own"]}
    before = torch.get_default_dtype()
    (line,) = own_faults(space_of(tmp_path, metrics=text, evaluate=named), (1, 8, 8))
    assert line.startswith(METRICS_FILE)
    assert message in line
    assert torch.get_default_dtype() == before
