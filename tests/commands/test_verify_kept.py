"""A search that begins with a false table of kept trials is not accepted by an audit."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from worked import Worked

TABLE = "search_spaces/tiny.trials.jsonl"
pytestmark = pytest.mark.slow
Change = Callable[[dict[str, Any], list[dict[str, Any]]], None]


@pytest.fixture
def mine(worked: Worked, tmp_path: Path) -> Worked:
    """A checkout with a table that is named by the space, whose search is yet to begin."""
    copy = worked.copy(tmp_path / "clone")
    copy.done("keep", "tiny")
    for stage in ("retrain", "evaluate", "render"):
        shutil.rmtree(copy.runs / "tiny" / stage)
    copy.edit("search", "observations", TABLE)
    return copy


def forge(mine: Worked, change: Change) -> None:
    """Changes the table, and its digest with it."""
    file = mine.root / TABLE
    _, origin, *lines = [json.loads(line) for line in file.read_text().splitlines()]
    change(origin, lines)
    rest = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in (origin, *lines))
    head = json.dumps({"kept": 1, "sha256": hashlib.sha256(rest.encode()).hexdigest()})
    file.write_text(f"{head}\n{rest}")


def verified(mine: Worked, *options: str) -> tuple[int, str]:
    code, out, _ = mine.give("verify", "tiny", "--no-mlflow", *options)
    return code, out


def searched(mine: Worked, change: Change, *, ledger: bool) -> None:
    """With the ledger in which the trials were trained, or in a clone that has the table alone."""
    forge(mine, change)
    if not ledger:
        for file in (mine.runs / "state").glob("ledger.db*"):
            file.unlink()
    mine.done("search", "tiny")


def other_rate(_: dict[str, Any], lines: list[dict[str, Any]]) -> None:
    lines[1]["parameters"]["lr"] *= 1.01


def other_rate_throughout(origin: dict[str, Any], lines: list[dict[str, Any]]) -> None:
    other_rate(origin, lines)
    for epoch in lines[1]["curve"]:
        epoch["lr"] *= 1.01


def better(_: dict[str, Any], lines: list[dict[str, Any]]) -> None:
    """By every sum of it."""
    for record in (*lines[1]["curve"], lines[1]["result"]):
        record["recon_nats"] -= 1.0
        record["nelbo_nats"] = record["recon_nats"] + record["kl_nats"]


def other_seed(_: dict[str, Any], lines: list[dict[str, Any]]) -> None:
    lines[1]["seed"] += 1


def worse_sum(_: dict[str, Any], lines: list[dict[str, Any]]) -> None:
    lines[1]["curve"][0]["train_nelbo_nats"] -= 1.0


FORGED = {
    "another rate": (other_rate, "parameters is not the ledger's", "is not the schedule's"),
    "another rate throughout": (other_rate_throughout, "curve is not the ledger's", ""),
    "better curve": (better, "curve is not the ledger's", ""),
    "another seed": (other_seed, "seed is not the ledger's", ""),
    "a wrong sum": (worse_sum, "curve is not the ledger's", "train_nelbo_nats"),
}


@pytest.mark.parametrize(("change", "line", "alone"), FORGED.values(), ids=FORGED)
def test_a_forged_table_is_found_by_the_ledger(
    change: Change, line: str, alone: str, mine: Worked
) -> None:
    searched(mine, change, ledger=True)
    code, out = verified(mine)
    assert code == 2
    assert f"{TABLE}: trial 1 of " in out
    assert line in out


@pytest.mark.parametrize(("change", "line", "alone"), FORGED.values(), ids=FORGED)
def test_a_forged_table_is_found_by_itself_or_by_training_again(
    change: Change, line: str, alone: str, mine: Worked
) -> None:
    searched(mine, change, ledger=False)
    code, out = verified(mine, *([] if alone else ["--train", "3"]))
    assert code == 2
    assert (alone or "trial 1 differs first in epoch 1") in out


def test_an_honest_table_is_accepted_and_one_that_was_edited_later_is_not(mine: Worked) -> None:
    mine.done("search", "tiny")
    assert verified(mine)[0] == 0
    honest = (mine.root / TABLE).read_bytes()
    for text in (honest.replace(b'"seed": ', b'"seed": 1', 1), honest + b"\n"):
        (mine.root / TABLE).write_bytes(text)
        code, _ = verified(mine)
        assert code == 2
    (mine.root / TABLE).write_bytes(honest)
    forge(mine, better)
    code, out = verified(mine)
    assert code == 2
    assert "search was made with another search.observations" in out
    (mine.root / TABLE).write_bytes(honest)
    assert verified(mine)[0] == 0


def test_a_table_of_other_data_counts_for_nothing_and_is_accepted(mine: Worked) -> None:
    mine.edit("data", "limit", 500)
    mine.done("prepare", "tiny")
    mine.done("search", "tiny")
    assert verified(mine)[0] == 0
