"""Comparing tables as text: where two of them differ first."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from itertools import zip_longest

CLOSE = 1e-9  # relative: libraries of other versions round the last digits otherwise


def different(shown: str, text: str, due: str, close: float = 0.0) -> Iterator[str]:
    """The first cell in which a CSV file is not as it is `due`; numbers may differ by `close`."""
    rows, right = list(csv.reader(text.splitlines())), list(csv.reader(due.splitlines()))
    header, nothing = right[0], list[str]()
    for line, (row, wanted) in enumerate(zip_longest(rows, right, fillvalue=nothing), start=1):
        for name, cell, value in zip_longest(header, row, wanted):
            if cell != value and not _near(cell, value, close):
                yield f"{shown}: line {line}: {name} is {cell}, but follows as {value}"
                return


def _near(cell: str | None, value: str | None, close: float) -> bool:
    try:
        return math.isclose(float(cell or ""), float(value or ""), rel_tol=close, abs_tol=close)
    except ValueError:
        return False
