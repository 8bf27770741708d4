"""Commands that people give while others run, each in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from crews import ROOT, SPACE, Sweep, eventually, in_midst_of_a_trial, no_one_left, pid_of

from pipeline.study.storage.claim import Claimant
from pipeline.study.watch import Watch

pytestmark = pytest.mark.slow


def start(root: Path, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", *command],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def give(root: Path, *command: str) -> tuple[int, str, str]:
    process = start(root, *command)
    out, err = process.communicate()
    return process.returncode, out, err


def test_clean_archive_and_retry_while_a_search_runs(tiny: Sweep, undisturbed: Sweep) -> None:
    process = tiny.start("search", 1)
    with no_one_left(process):
        trial = eventually(lambda: in_midst_of_a_trial(tiny), "a trial")
        for command in (["clean", "--yes"], ["clean", "tiny", "--yes", "--studies"]):
            code, out, err = give(tiny.root, *command)
            assert (code, out, err.count("\n")) == (2, "", 1), err
            assert err.startswith("error: clean: no trial may be held, but 1 workers hold some")
        code, out, err = give(tiny.root, "retry", "tiny")
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert give(tiny.root, "archive", "tiny", "--to", "a.tar") == (0, "a.tar\n", "")
        os.kill(pid_of(trial), signal.SIGCONT)
        assert process.wait() == 0, tiny.errors
    assert tiny.tables() == undisturbed.tables()


def test_retry_by_the_command(tiny: Sweep, undisturbed: Sweep) -> None:
    tiny.machine()
    code, out, err = give(tiny.root, "retry", "tiny")
    assert (code, out) == (2, "")
    assert err == "error: retry tiny: nothing has failed: there is nothing to try again\n"
    assert not tiny.paths.ledger.exists()
    ledger = tiny.ledger
    ledger.open_study(tiny.study.id, "tiny", "search", tiny.study.spec)
    watch = Watch(ledger, tiny.study, tiny.space)
    watch.refresh()
    plan = tiny.worker(ledger).claims.plan(watch)
    lease = ledger.begin(tiny.study.id, plan, Claimant("elsewhere/1/1"))
    ledger.finish(lease, "failed", [], None, "ValueError: a bug, mended since")
    ledger.close()
    code, out, err = give(tiny.root, "retry", "tiny", "0")
    assert (code, err) == (0, "")
    assert out.startswith(f"search {tiny.study.id}: trials 0 are open again")
    with no_one_left(process := tiny.start("search", 1)):
        assert process.wait() == 0, tiny.errors
    assert tiny.tables() == undisturbed.tables()


def test_two_prepare_one_sweep(tmp_path: Path) -> None:
    (tmp_path / "search_spaces").mkdir()
    (tmp_path / "search_spaces" / "tiny.yaml").write_text(yaml.safe_dump(SPACE))
    (tmp_path / "machine.yaml").write_text("tracking: none\ndevice: cpu\n")
    both = [start(tmp_path, "prepare", "tiny") for _ in range(2)]
    for process in both:
        _, err = process.communicate()
        assert (process.returncode, err) == (0, "")
    folder = tmp_path / "runs" / "tiny" / "prepare"
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert give(tmp_path, "prepare", "tiny")[0] == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    assert not [path for path in folder.parent.iterdir() if path.name.startswith(".")]
