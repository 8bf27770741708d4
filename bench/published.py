"""Published figures: docs/published.yaml fills the tables of README and docs.

    python -m bench.published            # what is stale; exit code 1 if a text is not as it follows
    python -m bench.published --write    # fill the marked blocks
    python -m bench.published --digest NAME

A block is `<!-- published: NAME -->` … `<!-- end -->` in a Markdown file, filled by
docs/tables/NAME.md: `{row.key:.2f}` is a figure of a row, and `{row}`, which belongs behind the
figures of every row, says whether the space or the code has changed since it was measured.
"""

from __future__ import annotations

import argparse
import re
import string
from pathlib import Path
from typing import Any

import yaml

from pipeline.results.record import settings_of
from pipeline.seeds import digest
from pipeline.settings.space import load_space
from pipeline.study.identity import PROPOSAL_SEMANTICS, TRAINING_SEMANTICS

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"(<!-- published: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
DIGITS = 12


class Row:
    """A line of the table, as the templates read it."""

    def __init__(self, content: dict[str, Any], root: Path = ROOT):
        self.content, self._root = content, root

    def __getattr__(self, key: str) -> Any:
        values = {**self.content["values"], "core_seconds": self.content.get("core_seconds")}
        if key not in values:
            raise AttributeError(key)
        return values[key]

    def __str__(self) -> str:
        return f" ({self.stale})" if self.stale else ""

    __format__ = object.__format__

    @property
    def stale(self) -> str:
        """What has changed since it was measured; empty if nothing has."""
        content = self.content
        if content["space"] != space_digest(content["sweep"], self._root):
            return "earlier space"
        if content["semantics"]["training"] != TRAINING_SEMANTICS:
            return "earlier code"
        searched = load_space(self._root, content["sweep"]).searched
        if searched and content["semantics"]["proposal"] != PROPOSAL_SEMANTICS:
            return "earlier code"
        return ""


def space_digest(name: str, root: Path = ROOT) -> str:
    """Of the settings in force, defaults spelled out: what a comment or an order cannot change.

    Where nothing is searched the search counts by its seed and objectives alone. What is not there
    by default, such as an option that came later, is left out; so are looks where nothing races.
    """
    space = load_space(root, name)
    settings = settings_of(space)
    retrain = {**settings["retrain"], "rungs": space.retrain.looks}
    if not space.searched or min(space.retrain.top, space.retrain.seeds) < 2:
        del retrain["rungs"]
    settings = {**settings, "retrain": retrain}
    if not space.searched:
        used = {key: settings["search"][key] for key in ("seed", "objectives")}
        settings = {**settings, "search": used}
    return digest(_present(settings))[:DIGITS]


def _present(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: _present(each) for key, each in value.items() if each is not None}


def rows(root: Path = ROOT) -> dict[str, Row]:
    """The table by the names of its rows."""
    content = yaml.safe_load((root / "docs" / "published.yaml").read_text(encoding="utf-8"))
    return {name: Row(row, root) for name, row in content.items()}


def filled(text: str, root: Path = ROOT) -> str:
    """A Markdown text with its blocks as they follow from the table."""
    table = rows(root)

    def block(match: re.Match[str]) -> str:
        template = root / "docs" / "tables" / f"{match[2]}.md"
        return match[1] + template.read_text(encoding="utf-8").format(**table) + match[4]

    return BLOCK.sub(block, text)


def texts(root: Path = ROOT) -> list[Path]:
    """The files that have blocks."""
    files = [*root.glob("*.md"), *(root / "docs").glob("*.md"), *(root / "bench").glob("*.md")]
    return [file for file in sorted(files) if BLOCK.search(file.read_text("utf-8"))]


def unmarked(root: Path = ROOT) -> list[str]:
    """Figures of templates that are not followed by the mark of their row in their cell."""
    found = []
    for template in sorted((root / "docs" / "tables").glob("*.md")):
        for line in template.read_text(encoding="utf-8").splitlines():
            fields = {name for _, name, _, _ in string.Formatter().parse(line) if name}
            found += [
                f"{template.name}: {name}"
                for name in sorted(fields)
                if name.split(".")[0] not in fields
            ]
    return found


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="published figures")
    parser.add_argument("--write", action="store_true", help="fill the marked blocks")
    parser.add_argument("--digest", metavar="NAME", help="the digest of a space, for a new row")
    options = parser.parse_args()
    if options.digest:
        print(space_digest(options.digest))
        return 0
    for name, row in rows().items():
        if row.stale:
            print(f"{name}: {row.stale}: measured at {row.content['commit']}"
                  f" by `{row.content['command']}`")  # fmt: skip
    wrong = [file for file in texts() if filled(text := file.read_text("utf-8")) != text]
    for file in wrong:
        if options.write:
            file.write_text(filled(file.read_text("utf-8")), encoding="utf-8")
        print(f"{file.relative_to(ROOT)}: {'filled' if options.write else 'is not as it follows'}")
    return 1 if wrong and not options.write else 0


if __name__ == "__main__":
    raise SystemExit(main())
