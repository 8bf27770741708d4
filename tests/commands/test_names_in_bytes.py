"""Names that are not UTF-8, which a disk may hold: one line, or they do no harm."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from worked import Worked

ODD = os.fsdecode(b"odd\xff")


@pytest.fixture
def tiny(worked: Worked, tmp_path: Path) -> Worked:
    return worked.copy(tmp_path / "clone")


@pytest.mark.parametrize(
    "command",
    [
        ("new", "mine", "--images", ODD),
        ("space", ODD),
        ("worker", ODD),
        ("sweep", ODD),
        ("export", "tiny", "--optuna", f"sqlite:///{ODD}"),
        ("reproduce", "tiny", "0", "--study", ODD),
    ],
    ids=lambda command: command[0],
)
def test_what_is_typed(command: tuple[str, ...], tiny: Worked) -> None:
    (tiny.root / ODD).mkdir()
    assert tiny.refused(*command).startswith("what is typed must be UTF-8, but got ")


@pytest.mark.parametrize("command", ["check", "prepare"])
def test_a_place_of_data(command: str, tiny: Worked) -> None:
    (tiny.root / ODD).mkdir()
    space = 'data: {name: images, path: "odd\\udcff"}\n'
    (tiny.root / "search_spaces" / "tiny.yaml").write_text(space)
    assert "text must be UTF-8, but got 'odd\\udcff': rename" in tiny.refused(command, "tiny")


def test_a_storage(tiny: Worked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_STORAGE", f"sqlite:///{ODD}.db")
    assert "PIPELINE_STORAGE: must be UTF-8" in tiny.refused("status")
    monkeypatch.delenv("PIPELINE_STORAGE")
    (tiny.root / "machine.yaml").write_text('storage: "sqlite:///\\udcff.db"\n')
    assert "machine.yaml: is not valid YAML: " in tiny.refused("status")


@pytest.mark.parametrize("command", ["list", "check", "prepare", "search", "status", "own-data"])
def test_a_checkout_in_such_a_folder(command: str, tiny: Worked) -> None:
    there = Worked(tiny.root.rename(tiny.root.parent / ODD))
    words = (command, "tiny") if command in ("check", "prepare", "search") else (command,)
    assert "the name of a checkout's folder must be UTF-8" in there.refused(*words)


def test_a_space_of_such_a_name_harms_no_other(tiny: Worked) -> None:
    (tiny.root / "search_spaces" / f"{ODD}.yaml").write_text("data: {name: digits}\n")
    code, out, err = tiny.give("list")
    assert (code, err) == (0, "")
    (line,) = [line for line in out.splitlines() if line.startswith("odd\ufffd ")]
    assert "invalid: a sweep's name is lower-case letters" in line
    assert "did you mean" not in line
    code, out, err = tiny.give("status")
    assert (code, err.count("\n")) == (2, 1)
    assert "lower-case letters" in err
    assert "3 trials" in out
    assert tiny.give("check", "tiny")[0] == 0
