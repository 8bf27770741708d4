"""A second user of a checkout, who may read all of it and write nothing."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from rights import PERSON, give_as_a_person, needs_a_person, write_protected
from servers import answers, wait_for
from surroundings import free_port
from worked import Worked

pytestmark = needs_a_person
ROOT = Path(__file__).parents[2]


@pytest.fixture
def theirs(worked: Worked, tmp_path: Path) -> Worked:
    """A copy of a finished sweep, with tracking on."""
    copy = worked.copy(tmp_path / "clone")
    (copy.root / "machine.yaml").write_text("workers: 1\ndevice: cpu\n")
    return copy


@pytest.mark.parametrize("ledger", [True, False])
def test_status_says_the_same(ledger: bool, theirs: Worked) -> None:
    (theirs.root / "machine.yaml").write_text("tracking: none\n")
    if not ledger:
        shutil.rmtree(theirs.runs / "state")
    _, says, _ = theirs.give("status", "tiny")
    before = theirs.files()
    with write_protected(theirs.root):
        done = give_as_a_person(theirs.root, "status", "tiny")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == says
    assert theirs.files() == before


def test_where_says_the_same_and_keeps_its_files_elsewhere(theirs: Worked) -> None:
    before = theirs.files()
    with closing(sqlite3.connect(theirs.runs / "state" / "mlflow.db")) as db:
        (run_id,) = db.execute("SELECT run_uuid FROM runs").fetchone()
    with write_protected(theirs.root):
        done = give_as_a_person(theirs.root, "where", run_id)
    assert (done.returncode, done.stderr) == (0, "")
    assert theirs.files() == before
    copied = next(line for line in done.stdout.splitlines() if line.startswith("    cp "))
    kept = Path(copied.split()[1])
    assert kept.read_text()
    assert theirs.root not in kept.parents
    shutil.rmtree(kept.parent)
    _, says, _ = theirs.give("where", run_id)
    ours = theirs.runs / "state" / "origins" / run_id / "tiny.yaml"
    assert done.stdout.replace(str(kept), str(ours)) == says


@pytest.mark.slow
def test_verify_says_the_same(theirs: Worked) -> None:
    before = theirs.files()
    with write_protected(theirs.root):
        done = give_as_a_person(theirs.root, "verify", "tiny")
    assert (done.returncode, done.stderr) == (0, "")
    assert theirs.files() == before


@pytest.mark.slow
def test_ui_shows_a_copy_and_says_so(theirs: Worked, tmp_path: Path) -> None:
    before = theirs.files()
    port, log = free_port(), tmp_path / "log"
    with write_protected(theirs.root), log.open("wb") as said:
        command = subprocess.Popen(
            [*PERSON, sys.executable, "-m", "pipeline", "ui", "--port", str(port)],
            cwd=theirs.root,
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path),
                 "TMPDIR": str(tmp_path)},
            stdout=said,
            stderr=said,
        )  # fmt: skip
        try:
            wait_for(lambda: answers(f"http://127.0.0.1:{port}/health"), command, log)
            command.send_signal(signal.SIGTERM)
            assert command.wait() == 0
        finally:
            command.kill()
            command.wait()
    text = log.read_text()
    assert f"{theirs.runs / 'state' / 'mlflow.db'} may not be written by you" in text
    assert f"  tiny: http://127.0.0.1:{port}/#/experiments/" in text
    assert theirs.files() == before
    assert [path for path in tmp_path.iterdir() if path.name.startswith("tmp")] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [("run", "tiny"), ("evaluate", "tiny"), ("sync",), ("pause", "tiny")],
    ids=lambda command: command[0],
)
def test_what_would_write_says_so_in_one_line(command: tuple[str, ...], theirs: Worked) -> None:
    before = theirs.files()
    with write_protected(theirs.root):
        done = give_as_a_person(theirs.root, *command)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith("error: ")
    assert str(theirs.runs) in done.stderr
    assert theirs.files() == before


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "evaluate"])
def test_an_error_is_the_only_line_of_a_command_whose_mirror_has_nothing_to_tell(
    command: str, theirs: Worked
) -> None:
    """The state may be written, and the outputs may not."""
    theirs.edit("evaluate", "nelbo_samples", 2)
    outputs = theirs.runs / "tiny"
    outputs.chmod(0o555)
    done = give_as_a_person(theirs.root, command, "tiny")
    outputs.chmod(0o755)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith(f"error: {outputs}/."), done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("place", ["tiny", "state/studies/*/lock"])
@pytest.mark.parametrize("command", ["search", "retrain"])
def test_an_error_is_the_only_line_of_a_stage_that_has_nothing_to_train(
    command: str, place: str, theirs: Worked
) -> None:
    (theirs.root / "machine.yaml").write_text("workers: 1\ndevice: cpu\ntracking: none\n")
    before = theirs.files()
    forbidden = list(theirs.runs.glob(place))
    for path in forbidden:
        path.chmod(0o555 if path.is_dir() else 0o444)
    done = give_as_a_person(theirs.root, command, "tiny")
    for path in forbidden:
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert theirs.files() == before
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith(f"error: {theirs.runs}/"), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
