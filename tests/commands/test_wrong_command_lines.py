"""Command lines that nobody should type: each one line, exit code 2, nothing changed."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from worked import Worked

ROOT = Path(__file__).parents[2]
HUGE = "9" * 5000
STAGES = ("prepare", "search", "retrain", "evaluate", "render", "run")
NAMED = (*STAGES, "check", "archive", "verify", "retry", "settings", "clean", "status", "sync")
NAMES = {  # that no sweep has
    "up": "../tiny",
    "out": "../../etc/passwd",
    "absolute": "/etc/passwd",
    "empty": "",
    "dot": ".",
    "null": "ti\0ny",
    "lines": "tiny\ntiny",
    "look-alike": "tіny",  # a Cyrillic і
    "wide": "ｔｉｎｙ",
    "combining": "ti\u0301ny",
    "invisible": "tiny\u200b",
    "reversed": "\u202eynit",
    "surrogate": "tiny\udcff",
    "long": "t" * 70_000,
    "shell": "tiny;id",
    "glob": "t*",
    "percent": "%41",
    "state": "state",
}
LINES = """
nope => No such command 'nope'
Search tiny => No such command 'Search'
'' => No such command ''
--nope => No such option: --nope
-x => No such option: -x
search => Missing argument
reproduce tiny => Missing argument
where => Missing argument
space => Missing argument
archive => Missing argument
search tiny tiny => unexpected extra argument
list tiny => unexpected extra argument
status tiny tiny => unexpected extra argument
status --nope => No such option: --nope
search tiny --fro 1h => No such option: --fro
search tiny --for => requires an argument
verify tiny --train => requires an argument
verify tiny --measure=yes => does not take a value
search tiny --for x => --for must be a duration
search tiny --for '' => --for must be a duration
search tiny --for -1h => --for must be a duration
search tiny --for 0s => --for must be a duration
search tiny --for 1.5h => --for must be a duration
search tiny --for ²h => --for must be a duration
search tiny --for ٣h => --for must be a duration
search tiny --for 999999999999999999d => --for must be a duration
run tiny --until x => --until must be a time
run tiny --until 24:00 => --until must be a time
run tiny --until 2030-02-30T07:00 => --until must be a time
run tiny --until 99999-01-01 => --until must be a time
run tiny --until 0001-01-01T00:00+14:00 => --until must be a time
run tiny --until ۰۷:۰۰ => --until must be a time
retrain tiny --for 1h --until 07:00 => exclude each other
sweep tiny --gpus => requires an argument
sweep tiny --gpus all => --gpus must be idle, but got 'all'
reproduce tiny x => Invalid value for
reproduce tiny 0x1 => Invalid value for
reproduce tiny '' => Invalid value for
reproduce tiny 99 => choose another number
reproduce tiny 99999999999999999999999 => choose another number
reproduce tiny 0 --study nope => nope
reproduce tiny 0 --study ../x => ../x
retry tiny x => Invalid value for
retry tiny 0 => must be one that failed
retry tiny 99999999999999999999999 => must be one that failed
verify tiny --train -1 => Invalid value for '--train'
verify tiny --train many => Invalid value for '--train'
verify tiny --train 1e3 => Invalid value for '--train'
ui --port 0 => Invalid value for '--port'
ui --port 65536 => Invalid value for '--port'
ui --port http => Invalid value for '--port'
space nope => nope
space ../../etc => etc
space '' => study
archive tiny --to . => is a folder
archive tiny --to /dev/null/x.tar => File exists
archive tiny --to runs/tiny/search/best.json/x => File exists
clean --yes tiny nope => unexpected extra argument
clean nope => does not exist
worker nope.json 0 => nope.json
worker search_spaces/tiny.yaml 0 => tiny.yaml
worker nope.json x => Invalid value for
"""
CASES = [line.split(" => ") for line in LINES.strip().splitlines()]


@pytest.fixture(scope="module")
def tiny(worked: Worked, tmp_path_factory: pytest.TempPathFactory) -> Worked:
    return worked.copy(tmp_path_factory.mktemp("typed") / "clone")


@pytest.mark.parametrize(("line", "expected"), CASES, ids=[line for line, _ in CASES])
def test_a_wrong_line(line: str, expected: str, tiny: Worked) -> None:
    assert expected in tiny.refused(*shlex.split(line))


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_a_name_that_no_sweep_has(name: str, tiny: Worked) -> None:
    before = tiny.files()
    for verb in NAMED if name else STAGES:  # without a name the others mean all sweeps
        code, out, err = tiny.give(verb, name)
        assert (code, out, err.count("\n")) == (2, "", 1), (verb, err)
        assert len(err) < 600
    assert tiny.files() == before


@pytest.mark.parametrize("number", [HUGE, f"-{HUGE}", "1e999", "٣", "0" * 5000 + "x"])
def test_a_number_without_end(number: str, tiny: Worked) -> None:
    for line in (["reproduce", "tiny"], ["retry", "tiny"], ["verify", "tiny", "--train"]):
        assert len(tiny.refused(*line, number)) < 600


@pytest.mark.parametrize("run", ["nope", "", "../x", "a\0b", "0" * 32, "x" * 70_000, "tіny", "%"])
def test_a_run_that_mlflow_does_not_have(run: str, tiny: Worked) -> None:
    (tiny.root / "machine.yaml").write_text("device: cpu\n")
    assert len(tiny.refused("where", run)) < 600


def test_nothing_is_asked_for() -> None:
    """The only refusal of more than a line is the help."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: python -m pipeline")
    assert "search" in done.stderr


def test_as_a_person_types_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "verify", "tiny", "--train", "-1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: verify: Invalid value for '--train': ")
    assert done.stderr.endswith(": see `python -m pipeline verify --help`\n")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
