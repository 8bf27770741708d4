"""A checkout and its sweeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.api.comparison import Comparison, compare
from pipeline.api.sweep import Sweep
from pipeline.errors import UserError
from pipeline.files import write_text
from pipeline.settings.own_files import reader
from pipeline.settings.space import NAME, parse_space, space_names


class Checkout(Mapping[str, Sweep]):
    """The sweeps of a folder with search_spaces/, by name."""

    def __init__(self, root: Path | str = "."):
        """Raises UserError if `root` is no checkout."""
        self.root = Path(root).absolute()
        if not (self.root / "search_spaces").is_dir():
            raise UserError(f"{self.root} is no checkout, it has no search_spaces/: give another")

    def __repr__(self) -> str:
        return f"Checkout({str(self.root)!r}): {', '.join(self) or 'no sweep yet'}"

    def __getitem__(self, name: str) -> Sweep:
        """The sweep of search_spaces/NAME.yaml. Raises UserError if there is none."""
        sweep = Sweep(self.root, name)
        sweep.space  # noqa: B018 - read for its errors: the name, the file
        return sweep

    def __contains__(self, name: object) -> bool:
        return name in space_names(self.root)

    def __iter__(self) -> Iterator[str]:
        return iter(space_names(self.root))

    def __len__(self) -> int:
        return len(space_names(self.root))

    def define(self, name: str, space: Mapping[str, Any], *, replace: bool = False) -> Sweep:
        """Writes search_spaces/NAME.yaml from its sections and returns the sweep.

        Raises UserError for what is no search space, and unless `replace` for a name that is taken.
        """
        where = f"search_spaces/{name}.yaml"
        if not NAME.fullmatch(name):
            raise UserError(
                "a sweep's name is lower-case letters, digits, `-` and `_` (at most 64), but got"
                f" {name!r:.80}: choose such a one"
            )
        if name in self and not replace:
            raise UserError(f"{where} exists: choose another name, or give replace=True")
        try:
            text = yaml.safe_dump(dict(space), sort_keys=False, allow_unicode=True)
        except yaml.YAMLError as error:
            said = " ".join(str(error).split())
            raise UserError(
                f"{where}: {said:.200}: give plain numbers, texts, lists and dicts"
            ) from None
        parse_space(name, yaml.safe_load(text), where, reader(self.root))
        write_text(self.root / where, text)
        return self[name]

    def compare(self, *names: str) -> Comparison:
        """Sweeps side by side; see `pipeline.api.comparison`. Raises UserError."""
        return compare([self[name] for name in names])
