"""What a sweep's own data are: the SHA-256 of the file or folder at `data.path`.

A file is read again only if its size, times or place on the disk have changed; what was read is
kept in runs/state.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError
from pipeline.files import sha256_of, write_json
from pipeline.paths import Paths, main_checkout

if TYPE_CHECKING:
    from pipeline.settings.sections import Data

RACY_SECONDS = 2.0  # a file changed so lately may change again without showing in its times

DEPTH = 3  # of an image within a folder: train/CLASS/FILE

Known = dict[str, list[int | str]]  # file: what identifies its state, and its SHA-256


def own_path(root: Path, path: str) -> Path:
    """Where `data.path` points to, relative to the main checkout. Raises UserError."""
    try:
        return main_checkout(root) / Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"data.path: {path!r:.80}: {error}: correct it") from None


def own_place(data: Data, root: Path) -> Path:
    """The file or folder of a sweep's own data. Raises UserError if there is none of that kind."""
    assert data.path is not None
    path = own_path(root, data.path)
    file, folder = data.name != "images", data.name in ("images", "own")
    try:
        if (file and path.is_file()) or (folder and path.is_dir()):
            return path
    except OSError as error:
        raise UserError(f"data.path: {str(path)!r:.80}: {error.strerror}: correct it") from None
    kind = {"images": "a folder of images", "own": "a file or folder"}.get(data.name, "a file")
    raise UserError(f"data.path: must be {kind}, but there is none at {path}: correct it")


def own_sha256(data: Data, paths: Paths) -> str | None:
    """The digest of a sweep's own data; None for a known set. Raises UserError if they are gone."""
    if data.path is None:
        return None
    path = own_place(data, paths.root)
    cache = paths.state / "own_data" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:16]}.json"
    known = _read(cache)
    files = sorted(_files(path, DEPTH)) if path.is_dir() else [path]
    now: Known = {}
    hasher = hashlib.sha256()
    for file in files:
        name = file.relative_to(path).as_posix()
        now[name] = _entry(file, known.get(name))
        # Else a name could look like two files.
        line = name.replace("\\", r"\\").replace("\n", r"\n")
        hasher.update(f"{now[name][-1]}  {line}\n".encode(errors="surrogateescape"))
    settled = {name: entry for name, entry in now.items() if _is_old(entry)}
    if settled != known:
        write_json(cache, settled)
    return hasher.hexdigest()


def _files(folder: Path, depth: int) -> Iterator[Path]:
    """Those that readers see: behind links too, but nothing that is hidden."""
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            continue
        if entry.is_file():
            yield entry
        elif depth > 1 and entry.is_dir():
            yield from _files(entry, depth - 1)


def _entry(file: Path, known: list[int | str] | None) -> list[int | str]:
    """A file's state and digest, which is that of `known` if the state is."""
    stat = file.stat()
    state = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    return known if known and known[:-1] == state else [*state, sha256_of(file)]


def _is_old(entry: list[int | str]) -> bool:
    return time.time() - max(int(entry[1]), int(entry[2])) / 1e9 > RACY_SECONDS


def _read(cache: Path) -> Known:
    """What is kept; nothing if it is damaged, because it can be had again."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(cache.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    return {}
