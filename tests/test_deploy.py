"""What deploy/ ships for nights is what systemd and cron read."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.__main__ import app

DEPLOY = Path(__file__).parent.parent / "deploy"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_systemd_understands_the_units(tmp_path: Path) -> None:
    for name in ("sweep.service", "sweep.timer"):
        text = (DEPLOY / name).read_text()
        (tmp_path / name).write_text(text.replace("%h/vae/.venv/bin/python", sys.executable))
    command = ["systemd-analyze", "verify", "--user", "--man=no", str(tmp_path / "sweep.timer")]
    known = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=known)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_commands_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their words are parsed as the command line does; nothing is run."""
    import typer

    service = (DEPLOY / "sweep.service").read_text()
    (line,) = re.findall(r"^0 22 \* \* \* (.+)$", (DEPLOY / "crontab").read_text(), re.M)
    page = (DEPLOY / "README.md").read_text()
    found = [
        re.search(
            r"-m pipeline (sweep [^>\"\n]+)", text.replace("pipeline\nsweep", "pipeline sweep")
        )
        for text in (service, line, page)
    ]
    words = [shlex.split(each[1]) for each in found if each]
    assert len(words) == 3
    for command in words:
        group = typer.main.get_command(app)
        verb = group.commands[command[0]]  # type: ignore[attr-defined]
        context = verb.make_context("sweep", command[1:])
        assert context.params["names"] == ["fashion"]
        assert (context.params["until"], context.params["add"]) == ("07:00", 8)
