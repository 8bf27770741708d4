"""A look reads in full what has come or moved, and nothing twice."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from searches import STUDY, Worker, complete, toy_space, toy_study

from pipeline.study.storage import look as look_module
from pipeline.study.storage.ledger import Ledger
from pipeline.study.storage.rows import Part, part_of
from pipeline.study.watch import Watch

SPACE = toy_space(trials=12, sampler="random", parallelism=3)


@pytest.fixture
def ledger(storage: str) -> Iterator[Ledger]:
    made = Ledger(storage)
    made.open_study(STUDY, "toy", "search", {})
    yield made
    made.close()


def kept(parts: list[Part]) -> list[Any]:
    """All but the lease, which a look leaves as it was read with the part."""
    return [{**vars(part), "expires": None, "strikes": None} for part in parts]


def test_what_is_followed_is_what_is_read_anew_and_no_row_is_read_in_vain(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def counted(row: Any) -> Part:
        read.append(row.number)
        return part_of(row)

    monkeypatch.setattr(look_module, "part_of", counted)
    draw, watch = random.Random(1), Watch(ledger, toy_study(SPACE), SPACE)
    crew, moves = [Worker(SPACE, ledger, complete) for _ in range(3)], 0
    while not watch.planner.finished:
        draw.choice(crew).step()
        read.clear()
        watch.refresh()
        moves += 1
        assert len(read) <= 1
        read.clear()
        watch.refresh()
        assert read == []
        assert kept(watch.parts) == kept(ledger.parts(STUDY))
        assert watch.held == sum(part.owner is not None for part in watch.parts)
    assert moves > 30


def test_who_is_free_is_seen_at_the_next_look(ledger: Ledger) -> None:
    watch, worker = Watch(ledger, toy_study(SPACE), SPACE), Worker(SPACE, ledger, complete)
    worker.step()
    watch.refresh()
    assert (watch.held, watch.free) == (1, [])
    ledger.release(f"{id(worker)}", blameless=True)
    watch.refresh()
    assert (watch.held, watch.free) == (0, [0])
    assert watch.parts[0].owner is None
