"""An MLflow store that came along with its checkout, which was moved or copied.

MLflow writes down where the files of an experiment and of each run are, as absolute addresses, and
has no call to change them: without this a moved store would have to be built anew, and what only it
knows (the champion, the history of versions, what people have written) would be lost.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.tracking.store import Store, outages, sqlite_file

COLUMNS = {  # that hold addresses
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
}


def came_along(store: Store, name: str, location: str) -> bool:
    """Whether an experiment keeps its files at `location` because its checkout was there.

    So it is if database and artifacts are in one folder, as they were, and the files are here; a
    database that several checkouts share is nobody's to change.
    """
    db, artifacts = sqlite_file(store.uri), store.artifacts
    if db is None or artifacts is None or db.parent != artifacts.parent:
        return False
    there, here = Path(unquote(urlsplit(location).path)), artifacts / name
    alike = there.parts[-2:] == here.parts[-2:] and there != here
    return alike and (here.is_dir() or not there.is_dir())


def take_along(store: Store, name: str, location: str) -> None:
    """Has the experiment and its runs look for their files where they are now.

    Raises MirrorUnavailable when the store fails.
    """
    db, artifacts = sqlite_file(store.uri), store.artifacts
    assert db is not None
    assert artifacts is not None
    here = (artifacts / name).as_uri()
    with outages(store.uri), closing(sqlite3.connect(db)) as connection, connection:
        for table, column in COLUMNS.items():
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?)"
                f" WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                (here, len(location) + 1, location, len(location) + 1, f"{location}/"),
            )
