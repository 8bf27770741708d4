"""Python files of your own that a space names, FILE.py:NAME: a family, a likelihood, a sampler,
a reader of data, metrics.

Their source is part of the space: whoever works on a sweep, rebuilds its model or repeats a stage
has it from there. Reading it runs nothing of it; `pipeline.own_code` does, and looks at what it
imports.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeGuard

from pydantic import AfterValidator, model_validator

from pipeline.settings.validation import Section, show

MOST_BYTES = 1_000_000
SOURCES = "sources"  # of a section as it is recorded: the files that it names
_NAME = re.compile(r"[^:]+\.py:[A-Za-z_][A-Za-z0-9_]*")


class Source(Section):
    """The content of a Python file."""

    sha256: str
    text: str

    @model_validator(mode="after")
    def _is_whole(self) -> Source:
        if hashlib.sha256(self.text.encode()).hexdigest() != self.sha256:
            raise ValueError("the text of a source is not that of its digest: restore it")
        return self


Sources = Mapping[str, Source]
Read = Callable[[str], Source]
Defined = type[ast.FunctionDef] | type[ast.ClassDef]


def is_own(name: Any) -> TypeGuard[str]:
    """Whether a name stands for something in a file of one's own."""
    return isinstance(name, str) and ":" in name


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"must be FILE.py:NAME, a function or class of it, but got {show(name)}")
    return name


OwnName = Annotated[str, AfterValidator(_checked)]


def files_of(names: Iterable[Any]) -> list[str]:
    """The files of those of the names that are one's own."""
    return sorted({name.rpartition(":")[0] for name in names if is_own(name)})


def with_digest(name: str, sources: Mapping[str, Mapping[str, str]]) -> str:
    """A name that is another one where its file, if it is in one, has other content."""
    if not is_own(name):
        return name
    return f"{name} of {sources[name.rpartition(':')[0]]['sha256'][:12]}"


def kept(sections: Mapping[str, Any]) -> tuple[dict[str, Any], Read]:
    """Recorded sections as a person writes them, and how the files in them are read."""
    written: dict[str, Any] = {}
    found: dict[str, Source] = {}
    for name, section in sections.items():
        written[name] = section
        if isinstance(section, dict) and SOURCES in section:
            written[name] = {key: value for key, value in section.items() if key != SOURCES}
            found |= {file: Source(**each) for file, each in section[SOURCES].items()}

    def read(file: str) -> Source:
        return found[file] if file in found else nowhere(file)

    return written, read


def nowhere(file: str) -> Source:
    """For a space that comes with no files. Raises ValueError."""
    raise ValueError(f"{file}: there is no checkout to read it from")


def reader(root: Path) -> Read:
    """How the Python files of a checkout are read."""
    return lambda file: read_source(root, file)


def read_source(root: Path, file: str) -> Source:
    """A file of the checkout that a space names. Raises ValueError; runs nothing of it."""
    if not file.endswith(".py"):
        raise ValueError(
            f"{file}: must be a file of the checkout, FILE.py, which may import an installed"
            " package: put what you name into one"
        )
    path = root / file
    if Path(file).is_absolute() or root.resolve() not in path.resolve().parents:
        raise ValueError(f"{file}: must be a file in the checkout, with its path from there")
    if not path.is_file():
        raise ValueError(f"{file}: there is no such file in {root}: add it, or correct the name")
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{file}: a file has at most {MOST_BYTES} bytes: shorten it")
    try:
        text = path.read_bytes().decode()
        ast.parse(text)
    except SyntaxError as error:
        raise ValueError(f"{file}: line {error.lineno}: {error.msg}: correct it") from None
    except ValueError:
        raise ValueError(f"{file}: is no text in UTF-8: save it as such") from None
    except (RecursionError, MemoryError):
        raise ValueError(f"{file}: is nested too deeply to be read: divide what is") from None
    return Source(sha256=hashlib.sha256(text.encode()).hexdigest(), text=text)


def check_defined(name: str, sources: Sources, kind: Defined) -> None:
    """Raises ValueError if the file has no such function (`ast.FunctionDef`) or class."""
    file, _, wanted = name.rpartition(":")
    body = ast.parse(sources[file].text).body
    there = [each.name for each in body if isinstance(each, kind)]
    if wanted not in there:
        what = "class" if kind is ast.ClassDef else "function"
        known = ", ".join(there) or "none"
        raise ValueError(f"{file}: has no {what} {wanted}: there are {known}: correct the name")
