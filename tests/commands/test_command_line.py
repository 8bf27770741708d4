"""What people may do to a checkout and its commands: one line, its exit code, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from crews import Sweep, make_sweep

from pipeline.__main__ import main
from pipeline.stages import prepare

ROOT = Path(__file__).parents[2]
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
            " put a backup in its place, or move it away to search anew",
        )


def test_an_output_that_is_cut_off(tiny: Sweep, give: Give) -> None:
    manifest = tiny.paths.prepare / "manifest.json"
    manifest.write_text(manifest.read_text()[:20])
    for command in ("status tiny", "search tiny", "reproduce tiny 0"):
        code, line = give(command)
        assert code == 2
        assert line == (
            "error: runs/tiny/prepare/manifest.json is not what prepare wrote: run"
            " `python -m pipeline prepare tiny` again"
        )


def test_a_file_in_place_of_a_folder(tiny: Sweep, give: Give) -> None:
    tiny.paths.runs.rename("elsewhere")
    tiny.paths.runs.touch()
    assert give("prepare tiny") == (
        2,
        f"error: {tiny.paths.settings}: Not a directory: mend that, then the same command goes on",
    )


@pytest.mark.parametrize("command", ["status", "list", "clean", "ui", "search tiny", "sync"])
def test_a_command_in_a_folder_of_the_checkout_names_the_checkout(
    tiny: Sweep, give: Give, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    (tiny.root / "docs").mkdir()
    monkeypatch.chdir(tiny.root / "docs")
    assert give(command) == (
        2,
        f"error: {tiny.root / 'docs'} is a folder of the checkout: `cd {tiny.root}` first",
    )
    assert not list((tiny.root / "docs").iterdir())


def test_a_command_where_no_checkout_is(
    tmp_path: Path, give: Give, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert give("status") == (
        2,
        f"error: {tmp_path} is no checkout, it has no search_spaces/: give the command in one",
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


def test_a_data_mirror_that_is_not_there(tmp_path: Path, give: Give, tiny: Sweep) -> None:
    (tiny.root / "search_spaces" / "other.yaml").write_text(
        "data: {name: fashion-mnist}\nparameters: {lr: 0.001}\n"
    )
    (tiny.root / "machine.yaml").write_text("tracking: none\ndata_mirror: /nope\n")
    assert give("prepare other") == (
        2,
        "error: data_mirror must be a folder, but got /nope: correct it in machine.yaml or leave it"
        " out",
    )
    assert not (tiny.root / "runs" / "other" / "prepare").exists()


@pytest.mark.parametrize("command", ["status", "list", "--help"])
def test_whoever_read_the_output_has_left(command: str, tiny: Sweep) -> None:
    """As in `| head`: nothing on standard error, and not the exit code of a bug."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", command],
        cwd=tiny.root,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")
