"""MLflow beside the pipeline: followed live by a process of its own, brought up to date later.

No trial and no stage ever waits for MLflow: while it is away, or without it, the ledger and the
outputs hold everything, and the next sync sends what is missing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.config import Machine, Space, load_space
from pipeline.paths import Paths
from pipeline.study.ledger import Ledger, storage_url

FOLLOW_SECONDS = 2.0
CATCH_UP_SECONDS = 60.0


def sync_all(root: Path, machine: Machine, name: str | None) -> str:
    """Brings MLflow up to date with one sweep or all; a line for each."""
    names = [name] if name else sorted(path.stem for path in (root / "search_spaces").glob("*.yaml"))
    return "\n".join(_sync_one(load_space(root, each), root, machine) for each in names)


def follow(root: Path, machine: Machine, name: str) -> None:
    """Mirrors a sweep until standard input closes, then once more."""
    from pipeline.records import records
    from pipeline.tracking.store import MirrorUnavailable

    space, paths = load_space(root, name), Paths(root, name)
    ended = threading.Event()
    threading.Thread(target=_wait_for_end, args=(ended,), daemon=True).start()
    ledger = Ledger(storage_url(machine, paths))
    mirror = _mirror(machine, paths)
    while not ended.wait(FOLLOW_SECONDS):
        with suppress(MirrorUnavailable):  # the next round or the next sync sends it
            mirror.sync(name, records(space, paths, ledger, live="live"))
    with suppress(MirrorUnavailable):
        mirror.sync(name, records(space, paths, ledger, live=None))


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
    from pipeline.tracking.store import ui_command

    argv, extra = ui_command(Paths(root, ""), machine.tracking)
    argv = [str(port) if value == "5000" else value for value in argv]
    print(f"MLflow: http://127.0.0.1:{port} (Ctrl-C ends it)", file=sys.stderr)
    try:
        return subprocess.call(argv, env={**os.environ, **extra})
    except KeyboardInterrupt:
        return 0


def _sync_one(space: Space, root: Path, machine: Machine) -> str:
    from pipeline.records import records
    from pipeline.tracking.store import MirrorUnavailable

    paths = Paths(root, space.name)
    ledger = Ledger(storage_url(machine, paths))
    try:
        report = _mirror(machine, paths).sync(space.name, records(space, paths, ledger, live=None))
    except MirrorUnavailable as error:
        return f"sync {space.name}: {error}; nothing is lost, the next sync goes on"
    return (
        f"sync {space.name}: {report.created} new runs, {report.metrics} metric points,"
        f" {report.artifacts} artifacts sent"
    )


def _mirror(machine: Machine, paths: Paths):  # type: ignore[no-untyped-def]
    from pipeline.seeds import digest
    from pipeline.tracking.mirror import Mirror
    from pipeline.tracking.store import resolve

    uri, artifacts = resolve(None if machine.tracking == "none" else machine.tracking, paths)
    return Mirror(uri, artifacts, paths.state / f"mlflow-{digest(uri)[:12]}.json")


def _wait_for_end(ended: threading.Event) -> None:
    while os.read(0, 1024):
        pass
    ended.set()
