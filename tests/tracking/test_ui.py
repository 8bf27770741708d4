"""`python -m pipeline ui` leaves nothing behind: its server ends with it, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from records import copy_db
from servers import DEADLINE, answers, wait_for
from surroundings import free_port

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_server_ends_with_the_command(
    number: signal.Signals, empty_db: Path, tmp_path: Path
) -> None:
    (tmp_path / "search_spaces").mkdir()
    (tmp_path / "runs" / "state").mkdir(parents=True)
    copy_db(empty_db, tmp_path / "runs" / "state" / "mlflow.db")
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_TRACKING")}
    log = tmp_path / "log"
    with log.open("wb") as said:
        command = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "ui", "--port", str(port)],
            cwd=tmp_path,
            env=environment | {"PYTHONPATH": str(ROOT)},
            stdout=said,
            stderr=said,
        )
    left: list[psutil.Process] = []
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/health"), command, log)
        left = psutil.Process(command.pid).children(recursive=True)
        assert left
        command.send_signal(number)
        code = command.wait()
        assert code == (-number if number == signal.SIGKILL else 0)
        _, alive = psutil.wait_procs(left, timeout=DEADLINE)
        assert alive == []
        assert not answers(f"http://127.0.0.1:{port}/health")
    finally:
        command.kill()
        command.wait()
        for process in left:
            if process.is_running():
                process.kill()


def test_a_guarded_command_ends_with_its_starter_and_passes_its_code(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from pipeline.commands.ui_guard import guarded\n"
        "seven = [sys.executable, '-c', 'raise SystemExit(7)']\n"
        "with guarded(seven, dict(os.environ)) as command:\n"
        "    assert command.wait() == 7\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "with guarded(sleep, dict(os.environ)) as command:\n"
        "    print(command.pid, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL
    wait_for(lambda: not psutil.pid_exists(int(done.stdout)))
