"""Addresses, passwords and failures of MLflow stores; the limits of the records."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from records import study

from pipeline.commands.ui import ui_command
from pipeline.errors import UserError
from pipeline.paths import Paths
from pipeline.tracking.mirror import Mirror
from pipeline.tracking.records import Dataset
from pipeline.tracking.store import MirrorUnavailable, Store, mask, resolve


def test_a_server_that_is_down_fails_at_once_and_keeps_the_password(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for uri in ("http://me:secret@127.0.0.1:1", "postgresql://me:secret@127.0.0.1:1/db"):
        began = time.monotonic()
        with pytest.raises(MirrorUnavailable, match=r"\*\*\*@127.0.0.1:1") as caught:
            Mirror(uri, None, tmp_path / "cursor.json").sync("fashion", [study()])
        assert time.monotonic() - began < 5
        assert "secret" not in str(caught.value)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("at http://me:secret@host:5000/x?y=1 now", "at http://***@host:5000/x?y=1 now"),
        ("https://token@host", "https://***@host"),
        ("postgresql+psycopg://me:se/c@ret@db/x", "postgresql+psycopg://***@db/x"),
        ("postgresql://db/x?user=me&password=secret&a=b", "postgresql://db/x?user=me&password=***&a=b"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
        ("me@example.org", "me@example.org"),
    ],
)  # fmt: skip
def test_mask(text: str, masked: str) -> None:
    assert mask(text) == masked


def test_resolve(tmp_path: Path) -> None:
    paths = Paths(tmp_path, "fashion")
    local = tmp_path / "runs/state"
    artifacts = local / "mlflow-artifacts"
    assert resolve(None, paths) == (f"sqlite:///{local / 'mlflow.db'}", artifacts)
    assert resolve("sqlite:///my.db", paths) == (f"sqlite:///{tmp_path / 'my.db'}", artifacts)
    assert resolve("sqlite:////srv/my.db", paths) == ("sqlite:////srv/my.db", artifacts)
    assert resolve("http://host:5000", paths) == ("http://host:5000", None)
    assert resolve("postgresql://h/db", paths) == ("postgresql://h/db", artifacts)
    for bad in ("mlruns", "file:///mlruns", "ftp://me:secret@host", "sqlite://", "https"):
        with pytest.raises(UserError, match="must be an MLflow URI that starts with") as caught:
            resolve(bad, paths)
        assert "secret" not in str(caught.value)


def test_ui_command_binds_to_loopback_and_hides_the_uri(tmp_path: Path) -> None:
    store = Store("postgresql://me:secret@db/mlflow", tmp_path / "artifacts", tmp_path / "cursor")
    argv, environment = ui_command(store, tmp_path / "apps", 5001)
    assert argv[argv.index("--port") + 1] == "5001"
    assert argv[argv.index("--host") + 1] == "127.0.0.1"
    assert "secret" not in " ".join(argv)
    assert environment["MLFLOW_BACKEND_STORE_URI"] == "postgresql://me:secret@db/mlflow"
    with pytest.raises(UserError, match="serves its own pages"):
        ui_command(store._replace(uri="http://host:5000", artifacts=None), tmp_path / "apps", 5001)


def test_records_refuse_what_mlflow_cannot_hold() -> None:
    with pytest.raises(ValueError, match="needs `end_ms`"):
        study(status="FINISHED")
    with pytest.raises(ValueError, match="key is letters"):
        study(key="it's")
    with pytest.raises(ValueError, match="at most 36 characters"):
        Dataset("d", "0" * 64, "here")


def test_importing_the_mirror_imports_nothing_heavy() -> None:
    code = (
        "import sys, pipeline.tracking.mirror, pipeline.tracking.registry\n"
        "heavy = {'mlflow', 'torch', 'sqlalchemy', 'pandas', 'scipy', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (answer.stdout, answer.stderr) == ("[]\n", "")
