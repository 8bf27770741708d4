"""What a space names in Python files of your own, run out of the source that a record carries.

Whatever such a file imports, whenever and in whichever words, must be an installed package or
`pipeline.vae`, of which a model has a copy: no digest covers the rest.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib.abc
import importlib.util
import linecache
import signal
import sys
import sysconfig
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.errors import UserError

Sources = Mapping[str, Mapping[str, str]]  # file: its `sha256` and `text`
PROGRAM, OURS = "pipeline", "pipeline.vae"
LOADERS = {"importlib", "runpy", "pkgutil", "imp", "zipimport"}  # run what lies anywhere
READERS = {"importlib.metadata", "importlib.resources"}  # load nothing
SECONDS = 120.0  # for an answer to what is tried
AGAIN_SECONDS = 5.0  # Python drops what is raised within callbacks
_served = False


class Fault(Exception):
    """What is wrong with code of your own, in one line."""


class _NoAnswer(BaseException):
    """Which no code takes for its own failure."""


@contextmanager
def in_time(name: str) -> Iterator[None]:
    """Ends what runs in here, code of FILE.py:NAME, after SECONDS. Raises Fault.

    A deadline that comes before is left to its own alarm; outside of the main thread, where no
    alarm rings, whoever waits ends it.
    """

    def ring(*_: object) -> None:
        raise _NoAnswer

    start, (left, again) = time.monotonic(), signal.getitimer(signal.ITIMER_REAL)
    if 0 < left <= SECONDS or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS, AGAIN_SECONDS)
    try:
        yield
    except _NoAnswer as late:
        raise Fault(f"{_line_of(late, name)}has not answered within {SECONDS:g} s") from None
    finally:
        over = left and max(left - (time.monotonic() - start), 0.001)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, over, again)


def own_object(name: str, sources: Sources) -> Any:
    """The function or class that FILE.py:NAME names; the file is run once a process.

    Raises UserError for a source that is damaged or fails.
    """
    file, _, inside = name.rpartition(":")
    try:
        return getattr(own_module(file, sources), inside)
    except AttributeError:
        raise UserError(f"{file}: defines no {inside} when it is run: correct it") from None


def own_module(file: str, sources: Sources) -> ModuleType:
    """What a file defines; it is run once a process. Raises UserError."""
    text, sha256 = sources[file]["text"], sources[file]["sha256"]
    if hashlib.sha256(text.encode()).hexdigest() != sha256:
        raise UserError(f"{file}: the recorded source is not that of its digest: restore it")
    # What compiles a function's source would read the file of the checkout, edited or not.
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    return _run(file, sha256, text)


def serve() -> None:
    """Lets packages lie anywhere from now on: a model is asked, and nothing is recorded."""
    global _served
    _served = True


def where(error: BaseException, name: str) -> str:
    """An exception in one line: what it says, and the last line on its way of the file of
    FILE.py:NAME."""
    said = " ".join(str(error).split())
    return f"{_line_of(error, name)}{type(error).__name__}: {said}".rstrip(": ")


def _line_of(error: BaseException, name: str) -> str:
    file = name.rpartition(":")[0]
    lines = [each.lineno for each in traceback.extract_tb(error.__traceback__)
             if each.filename == file]  # fmt: skip
    return f"line {lines[-1]}: " if lines else ""


@cache
def _run(file: str, sha256: str, text: str) -> ModuleType:
    name = f"own_{sha256}"
    specification = importlib.util.spec_from_loader(name, _Loader(file, text), origin=file)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # where dataclasses look for it
    vars(module)["__builtins__"] = {**vars(builtins), "__import__": _importer(file)}
    try:
        specification.loader.exec_module(module)
    except (UserError, KeyboardInterrupt, _NoAnswer):
        del sys.modules[name]
        raise
    except BaseException as error:  # a script that ends by itself would end us, too
        del sys.modules[name]
        raise UserError(f"{file}: {where(error, f'{file}:')}: correct it") from error
    return module


def _importer(file: str) -> Callable[..., ModuleType]:
    """What `import` is in a file: of all words for it, also later, within a function."""

    def imported(
        name: str, globals_: Any = None, locals_: Any = None, from_: Any = (), level: int = 0
    ) -> ModuleType:
        if level and globals_ and globals_.get("__package__"):  # it says that it is in one
            name = importlib.util.resolve_name("." * level + name, globals_["__package__"])
            level = 0
        if level == 0:
            _check_name(name, from_ or (), file)
        module = builtins.__import__(name, globals_, locals_, from_, level)
        if level == 0 and not _served and name.partition(".")[0] != PROGRAM:
            _check_place(name, from_ or (), file)
        return module

    return imported


def _check_name(name: str, from_: tuple[str, ...], file: str) -> None:
    top = name.partition(".")[0]
    parts = [f"{name}.{part}" for part in from_] if from_ and name == top else [name]
    if top in LOADERS and not (from_ and READERS.issuperset(parts)):
        raise UserError(
            f"{_line(file)} may import by `import` alone, but got {name}: write `import NAME`, of"
            " an installed package; `from importlib import metadata, resources` is fine"
        )
    if top == PROGRAM and not all(f"{part}.".startswith(f"{OURS}.") for part in parts):
        raise UserError(
            f"{_line(file)} may import {OURS} of the program alone, but got {name}: put that into"
            " it"
        )


def _check_place(name: str, from_: tuple[str, ...], file: str) -> None:
    for each in (name.partition(".")[0], name, *(f"{name}.{part}" for part in from_)):
        place = _place(each)
        if place is not None and not _is_installed(place):
            raise UserError(
                f"{_line(file)} may import installed packages, but got {each} of {place}, whose"
                " content no digest covers: put that into it, or install it (not with `pip"
                " install -e`)"
            )


def _line(file: str) -> str:
    lines = [each.lineno for each in traceback.extract_stack() if each.filename == file]
    return f"{file}: line {lines[-1] if lines else 0}: a file that a space names"


def _place(name: str) -> Path | None:
    """Where a module lies; nowhere if it is Python's own, or was made by no file."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    if spec is None and "." not in name:  # it has put something else in its place
        spec = PathFinder.find_spec(name)
    if spec is None:
        return None
    folders = iter(spec.submodule_search_locations or ())
    found = spec.origin if spec.has_location else next(folders, None)
    return None if found is None else Path(found).resolve()


def _is_installed(place: Path) -> bool:
    """Whether a module is Python's own, or was put where packages are: on a cluster also those of
    an environment that PYTHONPATH names."""
    own = [Path(sysconfig.get_path(each)).resolve() for each in ("stdlib", "platstdlib")]
    return any(
        folder in own or folder.name in ("site-packages", "dist-packages")
        for folder in place.parents
    )


class _Loader(importlib.abc.InspectLoader):
    """From the text in memory, which tracebacks quote."""

    def __init__(self, file: str, text: str) -> None:
        self._file, self._text = file, text

    def get_source(self, fullname: str) -> str:
        return self._text

    def get_code(self, fullname: str) -> Any:
        return self.source_to_code(self._text, self._file)
