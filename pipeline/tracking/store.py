"""Which MLflow store is used, how it is opened, and how its failures look."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError
from pipeline.machine import Machine
from pipeline.paths import Paths, atomic_path
from pipeline.seeds import digest

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

TIMEOUT_SECONDS = 5
PATIENT_SECONDS = 60
SERVERS = ("http", "https")
DATABASES = ("sqlite", "postgresql")

# A person's own values in the environment win.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": str(TIMEOUT_SECONDS),
    # MLflow retries even "create run", which then exists twice; our retry is the next sync.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}


class MirrorUnavailable(Exception):
    """The MLflow store cannot take the records now; the same call succeeds later.

    The message is one line without passwords.
    """


def mask(text: str) -> str:
    """The text with the user, password or token of every URL in it replaced by ***."""
    text = re.sub(r"(?<=://)[^\s/]*@", "***@", text)
    # SQLAlchemy accepts a slash in the password, so it goes up to the last @
    text = re.sub(r"(postgresql[\w+]*://)\S*@", r"\1***@", text)
    return re.sub(r"(?i)(?<=[?&])(password|pwd|token)=[^\s&]*", r"\1=***", text)


@contextmanager
def outages(uri: str) -> Iterator[None]:
    """Turns every failure of MLflow, its database, the network or a disk into MirrorUnavailable."""
    try:
        yield
    except Exception as error:
        if not _is_outage(error):
            raise
        detail = mask(" ".join(str(error).split()))[:500]
        # `from None`: a traceback would show the original message, passwords included
        raise MirrorUnavailable(f"MLflow at {mask(uri)} is not available: {detail}") from None


def resolve(uri: str | None, paths: Paths) -> tuple[str, Path | None]:
    """The absolute store URI and, unless a server decides, the folder of the artifacts.

    Without a `uri` it is SQLite in the state folder. Raises UserError for an unusable URI.
    """
    artifacts = paths.mlflow_artifacts.resolve()
    if uri is None:
        return f"sqlite:///{paths.mlflow_db.resolve()}", artifacts
    scheme, separator, rest = uri.partition("://")
    if separator and scheme in SERVERS:
        return uri, None
    if scheme == "sqlite" and len(rest) > 1:
        return f"sqlite:///{(paths.root / rest[1:]).resolve()}", artifacts
    if separator and scheme.partition("+")[0] == "postgresql":
        return uri, artifacts
    raise UserError(
        f"tracking: must be an MLflow URI that starts with {', '.join((*SERVERS, *DATABASES))}, but"
        f" got {mask(uri)}: give one, or leave it out for SQLite in {paths.state}"
    )


def store_of(machine: Machine, paths: Paths) -> tuple[str, Path | None, Path]:
    """The store of machine.yaml: its URI, the folder of artifacts, and the mirror's cursor.

    Raises UserError if tracking is switched off.
    """
    if machine.tracking == "none":
        raise UserError("tracking is `none` in machine.yaml: remove the key to use MLflow")
    uri, artifacts = resolve(machine.tracking, paths)
    return uri, artifacts, paths.state / f"mlflow-{digest(uri)[:12]}.json"


def set_environment() -> None:
    """Sets what MLflow must find before its import: no telemetry, short waits, no chatter."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def be_patient() -> None:
    """Gives a request the time that a person would: nothing else waits for its answer."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(PATIENT_SECONDS))


def connect(uri: str) -> MlflowClient:
    """A client of the store, which is created if it is SQLite and absent.

    Raises MirrorUnavailable, within seconds also for a database that does not answer.
    """
    set_environment()
    with outages(uri):
        from mlflow.tracking import MlflowClient

        # it prints the traceback of every error that it raises, and we raise it too
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        if uri.startswith("sqlite:///"):
            _open_sqlite(Path(uri.removeprefix("sqlite:///")))
        elif not uri.startswith(SERVERS):
            _probe(uri)
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


def ui_command(paths: Paths, uri: str | None, port: int = 5000) -> tuple[list[str], dict[str, str]]:
    """The command that serves MLflow's pages on this machine alone, and its extra environment.

    The URI travels in the environment, because everyone can read a command line. `connect` to the
    store before, so that it exists. Raises UserError for a server, which has pages of its own.
    """
    store, artifacts = resolve(uri, paths)
    if artifacts is None:
        raise UserError(f"tracking: {mask(store)} serves its own pages: open it in a browser")
    argv = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    environment = {
        "MLFLOW_BACKEND_STORE_URI": store,
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": artifacts.as_uri(),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    return [*argv, "--workers", "1"], environment


def _is_outage(error: Exception) -> bool:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return isinstance(error, MlflowException | SQLAlchemyError | OSError)


def _open_sqlite(path: Path) -> None:
    """Sees to it that MLflow finds a whole database at `path`, and the one that is there now."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    if known := SqlAlchemyStore._engine_map.get(f"sqlite:///{path}"):
        known.dispose()  # its connections would go on with a file that was deleted since
    if not path.exists():
        _create_sqlite(path)


def _create_sqlite(path: Path) -> None:
    """Creates an MLflow database whole or not at all, once.

    MLflow's own creation on first use crashes when two processes do it at once, and leaves an
    unusable file when it is killed.
    """
    from filelock import FileLock
    from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if path.exists():
            return
        for remains in ("-wal", "-shm"):  # SQLite would replay them into the new file
            Path(f"{path}{remains}").unlink(missing_ok=True)
        with atomic_path(path) as temporary:
            engine = create_sqlalchemy_engine(f"sqlite:///{temporary}")
            _initialize_tables(engine)
            with engine.connect() as connection:  # a reader (the UI) no longer blocks the mirror
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            engine.dispose()


def _probe(uri: str) -> None:
    """One connection to a database server: MLflow would retry a refused one for minutes."""
    import sqlalchemy

    limit = {"connect_timeout": TIMEOUT_SECONDS}
    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool, connect_args=limit)
    engine.connect().close()
