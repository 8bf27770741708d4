"""MLflow beside the pipeline: followed live by a process of its own, brought up to date later.

No trial and no stage ever waits for MLflow: while it is away, or without it, the ledger and the
outputs hold everything, and the next sync sends what is missing.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import Machine, Space, load_space, space_names
from pipeline.errors import UserError
from pipeline.paths import Paths
from pipeline.seeds import digest
from pipeline.study.ledger import Ledger, storage_url
from pipeline.tracking.mirror import Mirror

if TYPE_CHECKING:
    from pipeline.records import Sweep

FOLLOW_SECONDS = 2.0
CATCH_UP_SECONDS = 60.0


def sync_all(root: Path, machine: Machine, name: str | None) -> str:
    """Brings MLflow up to date with one sweep or all; a line for each."""
    names = [name] if name else space_names(root)
    return "\n".join(_sync_one(load_space(root, each), root, machine) for each in names)


def follow(root: Path, machine: Machine, name: str) -> None:
    """Mirrors a sweep until standard input closes, then once more."""
    from pipeline.records import Sweep
    from pipeline.tracking.store import MirrorUnavailable

    space, paths = load_space(root, name), Paths(root, name)
    ended = threading.Event()
    threading.Thread(target=_wait_for_end, args=(ended,), daemon=True).start()
    ledger = Ledger(storage_url(machine, paths))
    mirror = Mirror(*_store(machine, paths))
    while not ended.wait(FOLLOW_SECONDS):
        with suppress(MirrorUnavailable):  # the next round or the next sync sends it
            mirror.sync(name, Sweep(space, paths, ledger, live=True).records())
    with suppress(MirrorUnavailable):
        mirror.sync(name, Sweep(space, paths, ledger, live=False).records())


@contextmanager
def following(space: Space, machine: Machine, paths: Paths) -> Iterator[None]:
    """Has a process of its own mirror the sweep while the block works."""
    if machine.tracking == "none":
        yield
        return
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "mirror", space.name],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        cwd=paths.root,
        start_new_session=True,
    )
    try:
        yield
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(CATCH_UP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            print(
                f"MLflow is behind: `python -m pipeline sync {space.name}` sends the rest",
                file=sys.stderr,
            )


def catch_up(space: Space, machine: Machine, paths: Paths) -> None:
    """Sends what a stage has just written; a store that is away is only reported."""
    if machine.tracking == "none":
        return
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", "sync", space.name],
            cwd=paths.root,
            stdout=subprocess.PIPE,
            text=True,
            timeout=CATCH_UP_SECONDS,
        )
        print(done.stdout.strip(), file=sys.stderr)
    except subprocess.TimeoutExpired:
        print(
            f"MLflow is behind: `python -m pipeline sync {space.name}` sends the rest",
            file=sys.stderr,
        )


def serve_ui(root: Path, machine: Machine, port: int) -> int:
    """Serves MLflow's pages on the loopback interface until Ctrl-C; its exit code."""
    from pipeline.tracking.store import connect, ui_command

    paths = Paths(root, "")
    argv, extra = ui_command(paths, _uri(machine), port)
    connect(_store(machine, paths)[0])  # creates the store, so that the server need not
    print(f"MLflow: http://127.0.0.1:{port} (Ctrl-C ends it)", file=sys.stderr)
    try:
        return subprocess.call(argv, env={**os.environ, **extra})
    except KeyboardInterrupt:
        return 0


def _sync_one(space: Space, root: Path, machine: Machine) -> str:
    from pipeline.records import Sweep
    from pipeline.tracking.store import MirrorUnavailable

    paths = Paths(root, space.name)
    sweep = Sweep(space, paths, Ledger(storage_url(machine, paths)), live=False)
    try:
        _save_winner(paths)
        report = Mirror(*_store(machine, paths)).sync(space.name, sweep.records())
        registered = _register(sweep, _store(machine, paths)[0], report.run_ids)
    except MirrorUnavailable as error:
        return f"sync {space.name}: {error}; nothing is lost, the next sync goes on"
    return (
        f"sync {space.name}: {report.created} new runs, {report.metrics} metric points,"
        f" {report.artifacts} artifacts sent{registered}"
    )


def _save_winner(paths: Paths) -> None:
    from pipeline.records import winner_model
    from pipeline.tracking.model import save_model

    weights = paths.retrain / "model.safetensors"
    if weights.exists() and (paths.evaluate / "metrics.json").exists():
        save_model(winner_model(paths), weights, paths.retrain / "config.json")


def _register(sweep: Sweep, uri: str, run_ids: dict[str, str]) -> str:
    """Makes the winner a model version of the sweep's name; what that came to, in words."""
    from pipeline.records import Outputs, winner_digest, winner_model
    from pipeline.tracking.registry import Score, Winner, register

    outputs = Outputs.read(sweep.paths)
    if outputs.winner is None or outputs.manifest is None:
        return ""
    run_id = run_ids.get(sweep.key(outputs.winner["study"]))
    if run_id is None or not winner_model(sweep.paths).exists():
        return ""
    values = outputs.winner["values_nelbo_nats"]
    score = Score(
        mean_nats=statistics.fmean(values),
        sd_nats=statistics.stdev(values) if len(values) > 1 else 0.0,
        seeds=len(values),
        data=outputs.manifest["sha256"],
        likelihood=sweep.space.model.likelihood,
    )
    winner = Winner(run_id, "model", winner_digest(sweep.paths), score)
    registration = register(uri, sweep.space.name, winner)
    alias = "champion" if registration.champion else "not the champion"
    return f"; model version {registration.version} ({alias}: {registration.reason})"


def _store(machine: Machine, paths: Paths) -> tuple[str, Path | None, Path]:
    """The URI, the artifact folder and the mirror's state file."""
    from pipeline.tracking.store import resolve

    uri, artifacts = resolve(_uri(machine), paths)
    return uri, artifacts, paths.state / f"mlflow-{digest(uri)[:12]}.json"


def _uri(machine: Machine) -> str | None:
    if machine.tracking == "none":
        raise UserError("tracking is `none` in machine.yaml: remove the key to use MLflow")
    return machine.tracking


def _wait_for_end(ended: threading.Event) -> None:
    while os.read(0, 1024):
        pass
    ended.set()
