"""With which budget outputs were made, and when that still holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from searches import toy_space

from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.paths import Paths
from pipeline.results.record import write_record
from pipeline.settings.space import Space
from pipeline.study.budget import budget_of, budget_text, with_budget
from pipeline.work.budget_file import as_made, keep_budget


@pytest.fixture
def asked() -> Space:
    return toy_space(trials=12)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path, "toy")


def made(paths: Paths, space: Space) -> None:
    paths.search.mkdir(parents=True, exist_ok=True)
    write_json(paths.best, {})
    write_record(paths.search, "search", space, {"prepare": ""})


def test_it_holds_for_what_was_made_with_it(asked: Space, paths: Paths) -> None:
    closed = with_budget(asked, {"search.trials": 5, "retrain.top": 1})
    made(paths, closed)
    keep_budget(asked, closed, paths)
    assert budget_of(as_made(asked, paths)) == budget_of(closed)
    assert budget_text(asked, closed) == "5 of 12 trials, 1 of 2 candidates"


def test_not_for_another_budget_in_the_file(asked: Space, paths: Paths) -> None:
    closed = with_budget(asked, {"search.trials": 5})
    made(paths, closed)
    keep_budget(asked, closed, paths)
    more = with_budget(asked, {"search.trials": 20})
    assert as_made(more, paths) is more


def test_nor_for_what_was_made_since(asked: Space, paths: Paths) -> None:
    keep_budget(asked, with_budget(asked, {"search.trials": 5}), paths)
    made(paths, asked)
    assert as_made(asked, paths) is asked
    keep_budget(asked, asked, paths)
    assert not paths.budget.exists()


def test_a_file_without_it_is_refused(asked: Space, paths: Paths) -> None:
    made(paths, asked)
    write_json(paths.budget, {"file": budget_of(asked), "chosen": {}})
    with pytest.raises(UserError, match=r"budget\.json holds no budget: remove it"):
        as_made(asked, paths)
