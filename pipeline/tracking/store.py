"""Which MLflow store is used, how it is opened, and how its failures look."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.errors import UserError
from pipeline.files import atomic_path, copy_now, may_write
from pipeline.paths import Paths
from pipeline.seeds import digest
from pipeline.settings.machine import Machine

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

TIMEOUT_SECONDS = 5
PATIENT_SECONDS = 60
SERVERS = ("http", "https")
DATABASES = ("sqlite", "postgresql")
RUN_ID = re.compile(r"[a-zA-Z0-9][\w-]{0,255}", re.ASCII)
SQLITE = b"SQLite format 3\0"  # how its files begin
SQLITE_URI = "sqlite:///"
UNKNOWN_ID = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # of a run

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

    The message is one line without passwords, which ends with what is to be done.
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
        # `from None`: a traceback would show the original message, passwords included
        raise MirrorUnavailable(_outage(uri, error)) from None


def _outage(uri: str, error: Exception) -> str:
    """What has failed and what is to be done, in one line."""
    detail = mask(" ".join(str(getattr(error, "orig", None) or error).split()))[:500]
    if (file := sqlite_file(uri)) is None:
        return f"MLflow at {mask(uri)} is not available: {detail}: start it"
    if why := _damage(error):  # does not pass by itself
        anew = "move it away, and the next sync makes another"
        return f"MLflow's database {file} is damaged ({why}): {anew}"
    return f"MLflow's database {file} cannot be used: {detail}: mend that"


def sqlite_file(uri: str) -> Path | None:
    """The file of a store in SQLite."""
    return Path(uri.removeprefix(SQLITE_URI)) if uri.startswith(SQLITE_URI) else None


def resolve(uri: str | None, paths: Paths) -> tuple[str, Path | None]:
    """The absolute store URI and, unless a server decides, the folder of the artifacts.

    Without a `uri` it is SQLite in the state folder. Raises UserError for an unusable URI.
    """
    artifacts = Path(os.path.realpath(paths.mlflow_artifacts))
    if uri is None:
        return f"{SQLITE_URI}{os.path.realpath(paths.mlflow_db)}", artifacts
    scheme, separator, rest = uri.partition("://")
    if separator and scheme in SERVERS:
        return uri, None
    if scheme == "sqlite" and len(rest) > 1:
        return f"{SQLITE_URI}{os.path.realpath(paths.root / rest[1:])}", artifacts
    if separator and scheme.partition("+")[0] == "postgresql":
        return uri, artifacts
    raise UserError(
        f"tracking: must be an MLflow URI that starts with {', '.join((*SERVERS, *DATABASES))}, but"
        f" got {mask(uri)}: give one, or leave it out for SQLite in {paths.state}"
    )


class Store(NamedTuple):
    """Where a sweep's runs go, and where it is noted what has gone there."""

    uri: str
    artifacts: Path | None  # their folder, unless a server decides
    cursor: Path  # the mirror's


def store_of(machine: Machine, paths: Paths) -> Store:
    """The store of machine.yaml. Raises UserError if tracking is switched off."""
    if machine.tracking == "none":
        raise UserError("tracking is `none` in machine.yaml: remove the key to use MLflow")
    uri, artifacts = resolve(machine.tracking, paths)
    return Store(uri, artifacts, paths.state / f"mlflow-{digest(uri)[:12]}.json")


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
        if file := sqlite_file(uri):
            _open_sqlite(file)
        elif not uri.startswith(SERVERS):
            _probe(uri)
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


def pages(search: Callable[[str | None], Any]) -> Iterator[Any]:
    """All that MLflow finds, which it gives page by page to who names the page's token."""
    token = None
    while True:
        page = search(token)
        yield from page
        token = page.token
        if not token:
            return


def find_run(uri: str, run_id: str) -> tuple[str, dict[str, str]]:
    """The experiment of a run and its tags.

    Raises UserError if there is no such store or run, MirrorUnavailable if it does not answer.
    """
    unknown = UserError(
        f"MLflow at {mask(uri)} has no run {run_id:.80}: copy the Run ID of a run's Overview page"
    )
    if not RUN_ID.fullmatch(run_id):
        raise unknown
    if (file := sqlite_file(uri)) and is_absent(file):
        raise UserError(
            f"there is no MLflow database {file}: mount its folder, or `python -m pipeline sync`"
            " makes it from the ledger"
        )
    from mlflow.exceptions import MlflowException

    with outages(uri), readable(uri) as here:
        client = connect(here)
        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            if error.error_code in UNKNOWN_ID:
                raise unknown from None
            raise
        return client.get_experiment(run.info.experiment_id).name, run.data.tags


@contextmanager
def readable(uri: str) -> Iterator[str]:
    """The store for who only looks: a copy of what it holds now where its file is another's."""
    file = sqlite_file(uri)
    if file is None or not file.exists() or may_write(file):
        yield uri
        return
    with tempfile.TemporaryDirectory() as folder, outages(uri):
        copy_now(file, Path(folder, file.name))
        yield f"{SQLITE_URI}{Path(folder, file.name)}"


def _is_outage(error: Exception) -> bool:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return isinstance(error, MlflowException | SQLAlchemyError | OSError | sqlite3.Error)


def _damage(error: BaseException | None) -> str:
    """What SQLite says of a damaged file, if that is behind the error."""
    while error is not None:
        original = getattr(error, "orig", None) or error
        code = getattr(original, "sqlite_errorcode", 0) or 0
        if code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return str(original)
        error = error.__cause__ or error.__context__
    return ""


def is_absent(file: Path) -> bool:
    """Whether there is no database yet: to SQLite an empty file is a new one."""
    return not file.exists() or (file.is_file() and file.stat().st_size == 0)


def _refuse_damaged(path: Path) -> None:
    """Raises sqlite3.DatabaseError if that is no database of MLflow's, which would write to it."""
    with path.open("rb") as file:
        begins = file.read(len(SQLITE))
    if begins and begins != SQLITE:
        raise _no_database("file is not a database")
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
        known = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
    if known and "experiments" not in known:
        raise _no_database(f"it holds {', '.join(sorted(known)[:3])} of something else")


def _no_database(why: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(why)
    error.sqlite_errorcode = sqlite3.SQLITE_NOTADB
    return error


def _open_sqlite(path: Path) -> None:
    """Sees to it that MLflow finds a whole database at `path`, and the one that is there now."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    if known := SqlAlchemyStore._engine_map.get(f"{SQLITE_URI}{path}"):
        known.dispose()  # its connections would go on with a file that was deleted since
    if path.exists():
        _refuse_damaged(path)
    else:
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
