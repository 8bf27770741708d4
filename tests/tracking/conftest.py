from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from once import once
from records import Store, copy_db
from servers import Server

from pipeline.tracking.store import connect

WARNINGS_OF_MLFLOW = (
    "ignore:The ``noload`` loader:DeprecationWarning",  # SQLAlchemy 2.1 on MLflow's models
    "ignore:.*Any type hint is inferred as AnyType:UserWarning",  # on import, otherwise unseen
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for warning in WARNINGS_OF_MLFLOW:
                item.add_marker(pytest.mark.filterwarnings(warning))


@pytest.fixture(scope="session")
def empty_db(request: pytest.FixtureRequest) -> Path:
    """An MLflow database without experiments; creating one takes seconds, copying does not."""
    return once(request, "empty", lambda at: connect(f"sqlite:///{at}/mlflow.db")) / "mlflow.db"


@pytest.fixture(scope="session")
def shared_uri(empty_db: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("shared") / "mlflow.db"
    copy_db(empty_db, path)
    return f"sqlite:///{path}"


@pytest.fixture
def store(shared_uri: str, tmp_path: Path) -> Store:
    """An experiment of its own in the store that all tests share."""
    return Store(shared_uri, tmp_path / "artifacts", tmp_path / "cursor.json", tmp_path.name)


@pytest.fixture
def server(empty_db: Path, tmp_path: Path) -> Iterator[Server]:
    """An MLflow server on SQLite, `server.db`."""
    db = tmp_path / "server.db"
    copy_db(empty_db, db)
    options = ["--host", "127.0.0.1", "--workers", "1", "--backend-store-uri", f"sqlite:///{db}"]
    options += ["--artifacts-destination", (tmp_path / "served").as_uri()]
    server = Server(tmp_path, options)
    server.start()
    yield server
    server.kill()
