"""What people may do to a checkout and its commands: one line, its exit code, no traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from crews import Sweep, make_sweep

from pipeline.__main__ import main
from pipeline.stages import prepare

Give = Callable[[str], tuple[int, str]]


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """A sweep with data and a ledger, in the current folder."""
    made = make_sweep(tmp_path / "clone")
    study, ledger = made.study, made.ledger
    ledger.open_study(study.id, "tiny", study.kind, study.spec)
    for number in range(40):  # several pages of them
        ledger.open_study(f"other-{number}", "tiny", "search", {"text": "x" * 1000})
    ledger.close()
    made.machine()
    monkeypatch.chdir(made.root)
    return made


@pytest.fixture
def give(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Give:
    """Gives a command; its exit code and the one line that it says."""

    def give(command: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["pipeline", *command.split()])
        with pytest.raises(SystemExit) as ended:
            main()
        (line,) = capsys.readouterr().err.splitlines()
        return int(ended.value.code or 0), line

    return give


def test_a_ledger_with_damaged_pages(tiny: Sweep, give: Give) -> None:
    content = bytearray(tiny.paths.ledger.read_bytes())
    for page in range(4096, len(content), 4096):
        content[page : page + 64] = b"\xff" * 64
    tiny.paths.ledger.write_bytes(content)
    for command in ("status", "search tiny", "reproduce tiny 0"):
        assert give(command) == (
            2,
            f"error: the ledger {tiny.paths.ledger} is damaged (database disk image is malformed):"
            " put a copy of it in its place, or move it away to search anew",
        )


def test_an_output_that_is_cut_off(tiny: Sweep, give: Give) -> None:
    manifest = tiny.paths.prepare / "manifest.json"
    manifest.write_text(manifest.read_text()[:20])
    for command in ("status tiny", "search tiny", "reproduce tiny 0"):
        code, line = give(command)
        assert code == 2
        assert line.startswith(f"error: {manifest} is damaged (")
        assert line.endswith("): delete it and run the stage that writes it again")


def test_a_file_in_place_of_a_folder(tiny: Sweep, give: Give) -> None:
    tiny.paths.runs.rename("elsewhere")
    tiny.paths.runs.touch()
    assert give("status tiny") == (
        2,
        f"error: {tiny.paths.state}: Not a directory: mend that, then the same command goes on",
    )


@pytest.mark.parametrize("number", ["7", "99999999999999999999"])
def test_a_trial_that_is_not_there(number: str, tiny: Sweep, give: Give) -> None:
    code, line = give(f"reproduce tiny {number}")
    assert code == 2
    assert line.endswith(
        f" has 0 trials, and {number} is none with a finished epoch: choose another number"
    )


def test_ctrl_c_outside_of_a_search(
    tiny: Sweep, give: Give, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "run", interrupted)
    assert give("prepare tiny") == (
        130,
        "prepare tiny: interrupted: the same command starts it again",
    )
