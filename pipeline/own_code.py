"""What a space names in Python files of your own, run out of the source that a record carries."""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.util
import sys
import traceback
from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import Any

from pipeline.errors import UserError

Sources = Mapping[str, Mapping[str, str]]  # file: its `sha256` and `text`


class Fault(Exception):
    """What is wrong with code of your own, in one line."""


def own_object(name: str, sources: Sources) -> Any:
    """The function or class that FILE.py:NAME names; the file is run once a process.

    Raises UserError for a source that is damaged or fails.
    """
    file, _, inside = name.rpartition(":")
    text, sha256 = sources[file]["text"], sources[file]["sha256"]
    if hashlib.sha256(text.encode()).hexdigest() != sha256:
        raise UserError(f"{file}: the recorded source is not that of its digest: restore it")
    try:
        return getattr(_run(file, sha256, text), inside)
    except AttributeError:
        raise UserError(f"{file}: defines no {inside} when it is run: correct it") from None


def where(error: BaseException, name: str) -> str:
    """An exception in one line: what it says, and the last line on its way of the file of
    FILE.py:NAME."""
    file = name.rpartition(":")[0]
    lines = [each.lineno for each in traceback.extract_tb(error.__traceback__)
             if each.filename == file]  # fmt: skip
    said = " ".join(str(error).split())
    at = f"line {lines[-1]}: " if lines else ""
    return f"{at}{type(error).__name__}: {said}".rstrip(": ")


@cache
def _run(file: str, sha256: str, text: str) -> ModuleType:
    name = f"own_{sha256}"
    specification = importlib.util.spec_from_loader(name, _Loader(file, text), origin=file)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # where dataclasses look for it
    try:
        specification.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a script that ends by itself would end us, too
        del sys.modules[name]
        raise UserError(f"{file}: {where(error, f'{file}:')}: correct it") from error
    return module


class _Loader(importlib.abc.InspectLoader):
    """From the text in memory, which tracebacks quote."""

    def __init__(self, file: str, text: str) -> None:
        self._file, self._text = file, text

    def get_source(self, fullname: str) -> str:
        return self._text

    def get_code(self, fullname: str) -> Any:
        return self.source_to_code(self._text, self._file)
