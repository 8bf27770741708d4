"""A deadline chooses the budget of a sweep: the outputs are those of that budget, to the byte."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from worked import Worked

from pipeline.api import Checkout
from pipeline.files import read_json, write_json
from pipeline.paths import Paths
from pipeline.results.states import Kind, State
from pipeline.settings.deadline import now
from pipeline.settings.machine import Machine
from pipeline.settings.space import load_space
from pipeline.study.budget import with_budget
from pipeline.study.storage.ledger import Ledger
from pipeline.study.storage.rows import Part
from pipeline.work.budget_by_deadline import Reserve, crowding

STAGES = ("settings", "prepare", "search", "retrain", "evaluate", "render")
LATER = "2h"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def tiny(worked: Worked, tmp_path: Path) -> Worked:
    """The sweep that was worked through, asked for more of everything."""
    tiny = worked.copy(tmp_path / "clone")
    for section, key, value in (
        ("search", "trials", 6),
        ("retrain", "top", 2),
        ("retrain", "seeds", 3),
    ):
        tiny.edit(section, key, value)
    return tiny


def outputs(sweep: Worked) -> dict[str, str]:
    folders = tuple(f"runs/tiny/{stage}/" for stage in STAGES)
    return {name: it for name, it in sweep.files().items() if name.startswith(folders)}


def asked_for(tiny: Worked, root: Path, trials: int, top: int, seeds: int) -> dict[str, str]:
    """The outputs of the same sweep whose file asks for that budget."""
    other = tiny.copy(root)
    other.edit("search", "trials", trials)
    other.edit("retrain", "top", top)
    other.edit("retrain", "seeds", seeds)
    other.done("run", "tiny")
    return outputs(other)


def ended(tiny: Worked, kind: Kind) -> int:
    ledger = Ledger(f"sqlite:///{Paths(tiny.root, 'tiny').ledger}")
    try:
        studies = ledger.studies("tiny", kind)
        rows = [part for study in studies for part in ledger.parts(study)]
        return sum(part.state != State.RUNNING for part in rows)
    finally:
        ledger.close()


Closes = Callable[[str, Kind, int], None]


@pytest.fixture
def closes(tiny: Worked, monkeypatch: pytest.MonkeyPatch) -> Closes:
    """Has a stage's share of the time be over when so many of all its parts or runs have ended."""

    def closes(stage: str, kind: Kind, count: int) -> None:
        over = lambda reserve: ended(tiny, kind) >= count  # noqa: E731
        monkeypatch.setattr(Reserve, f"{stage}_is_over", over)

    return closes


@pytest.fixture
def closed(worked: Worked, tmp_path: Path) -> Worked:
    """A sweep whose deadline has closed it with half of what its file asks for."""
    sweep = worked.copy(tmp_path / "closed")
    chosen = {"search.trials": 3, "retrain.top": 1, "retrain.seeds": 2}
    for name, value in chosen.items():
        sweep.edit(*name.split("."), 2 * value)
    file = {name: 2 * value for name, value in chosen.items()}
    write_json(sweep.runs / "tiny" / "budget.json", {"file": file, "chosen": chosen})
    return sweep


def test_a_closed_sweep_is_one_for_all_who_read_it(closed: Worked) -> None:
    for command in ("retrain", "evaluate"):
        closed.done(command, "tiny")
        closed.done("verify", "tiny", "--no-mlflow")
    shutil.copytree(closed.runs / "tiny", closed.runs / "other")
    spaces = closed.root / "search_spaces"
    shutil.copyfile(spaces / "tiny.yaml", spaces / "other.yaml")
    checkout = Checkout(closed.root)
    assert "cannot be told apart" in str(checkout.compare("tiny", "other"))
    assert checkout["tiny"].figure("history").axes


def test_what_is_above_the_file_is_exported_and_seen(worked: Worked, tmp_path: Path) -> None:
    """A night has added trials to those of the file."""
    sweep = worked.copy(tmp_path / "clone")
    sweep.edit("search", "trials", 1)
    chosen = {"search.trials": 3, "retrain.top": 1, "retrain.seeds": 2}
    note = {"file": {**chosen, "search.trials": 1}, "chosen": chosen}
    write_json(sweep.runs / "tiny" / "budget.json", note)
    code, out, _ = sweep.give("export", "tiny", "--optuna", f"sqlite:///{tmp_path}/optuna.db")
    assert (code, "3 trials in Optuna's storage" in out) == (0, True)
    assert len(Checkout(sweep.root)["tiny"].trials(live=True)) == 3


@pytest.mark.slow
def test_a_search_closes_with_what_has_ended(tiny: Worked, closes: Closes, tmp_path: Path) -> None:
    closes("search", Kind.SEARCH, 4)  # one more than there were
    code, out, err = tiny.give("run", "tiny", "--for", LATER)
    assert code == 0, err
    trials = ended(tiny, Kind.SEARCH)
    assert 4 <= trials < 6
    assert f"search tiny: closes with {trials} of 6 trials, to have an answer by" in err
    assert "fresh seeds: mean" in out
    asked = asked_for(tiny, tmp_path / "asked", trials, 2, 3)
    assert outputs(tiny) == asked
    for command in ("verify", "evaluate"):  # what is given by hand knows of it
        tiny.done(command, "tiny")
    assert outputs(tiny) == asked
    _, said, _ = tiny.give("status", "tiny")
    assert f"outputs of tiny: {trials} of 6 trials" in said.splitlines()

    tiny.done("run", "tiny")  # goes on to all that is asked for
    assert outputs(tiny) == asked_for(Worked(tmp_path / "asked"), tmp_path / "all", 6, 2, 3)
    assert "outputs of tiny" not in tiny.give("status", "tiny")[1]


@pytest.mark.slow
def test_retraining_closes_with_whom_it_has(
    tiny: Worked, closes: Closes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One candidate has its seeds while the other one has still long to go."""
    tiny.edit("retrain", "rungs", [])
    tiny.edit("retrain", "epochs", 60)
    closes("search", Kind.SEARCH, 100)
    over = lambda reserve: reserve.retrained() is not None  # noqa: E731
    monkeypatch.setattr(Reserve, "retrain_is_over", over)
    code, _, err = tiny.give("run", "tiny", "--for", LATER)
    assert code == 0, err
    (said,) = [line for line in err.splitlines() if "retrain tiny: closes with" in line]
    top, _, seeds, _ = (int(word) for word in said.split() if word in "123")
    assert (top, seeds) != (2, 3)
    assert outputs(tiny) == asked_for(tiny, tmp_path / "asked", 6, top, seeds)


def test_without_time_for_an_answer_that_of_before_stands(tiny: Worked) -> None:
    before = outputs(tiny)
    until = (now() + timedelta(seconds=-1)).isoformat()
    code, out, err = tiny.give("run", "tiny", "--until", until)
    assert (code, out) == (130, "")
    assert err.splitlines()[-1].endswith(
        ": the time was up before the data were prepared; the winner and the report of before"
        " stand; nothing is lost: the same command goes on"
    )
    assert outputs(tiny) == before


def test_that_of_before_keeps_the_data_that_it_was_made_from(tiny: Worked) -> None:
    before = outputs(tiny)
    tiny.edit("data", "validation", {"fraction": 0.2, "seed": 1})
    until = (now() + timedelta(seconds=-1)).isoformat()
    assert tiny.give("run", "tiny", "--until", until)[0] == 130
    assert outputs(tiny) == before
    assert not list((tiny.runs / "state").glob("aside-*"))


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_what_could_not_be_put_back_is_by_the_next_command(
    tiny: Worked, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """The disk is full, or Ctrl-C comes again and again; whoever is killed leaves as much."""
    before, command = outputs(tiny), ("run", "tiny", "--until")
    tiny.edit("data", "validation", {"fraction": 0.2, "seed": 1})

    def fails(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.stages.search.run", fails)
        patch.setattr("pipeline.commands.run_by_deadline.atomic_folder", fails)
        code, _, err = tiny.give(*command, (now() + timedelta(hours=2)).isoformat())
    assert (code, err.count("\n")) == (2 if isinstance(error, OSError) else 130, 1), err
    assert outputs(tiny) != before
    (owner,) = (tiny.runs / "state").glob("aside-*/.owner")
    owner.write_text(f"{owner.read_text()}0")  # it has ended
    assert tiny.give(*command, (now() - timedelta(seconds=1)).isoformat())[0] == 130
    assert outputs(tiny) == before
    assert not list((tiny.runs / "state").glob("aside-*"))


def test_of_two_at_once_the_later_puts_back_what_was_before_the_earlier(tiny: Worked) -> None:
    """It has begun while outputs were those of the earlier one, half-way."""
    before = outputs(tiny)
    code = (
        "import sys; from pathlib import Path; from pipeline.paths import Paths;"
        "from pipeline.commands.run_by_deadline import _as_before_unless_done as aside\n"
        "with aside(Paths(Path.cwd(), 'tiny')): print(flush=True); sys.stdin.read(); sys.exit(1)"
    )
    command = [sys.executable, "-c", code]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=tiny.root, env=environment, **pipes) as earlier:
        earlier.stdout.readline()
        for stage in ("search", "retrain"):
            shutil.rmtree(tiny.runs / "tiny" / stage)
        with subprocess.Popen(command, cwd=tiny.root, env=environment, **pipes) as later:
            later.stdout.readline()
            earlier.communicate()
            assert outputs(tiny) == before
            later.communicate()
    assert outputs(tiny) == before
    assert not list((tiny.runs / "state").glob("aside-*"))


def test_an_answer_that_another_host_has_given_meanwhile_stands(
    tiny: Worked, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = tiny.runs / "tiny" / "render" / "record.json"

    def interrupted(*_: object, **__: object) -> None:
        write_json(record, {**read_json(record), "inputs": {}})
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.stages.search.run", interrupted)
    tiny.edit("data", "validation", {"fraction": 0.2, "seed": 1})
    before = outputs(tiny)
    assert tiny.give("run", "tiny", "--for", LATER)[0] == 130
    after = outputs(tiny)
    changed = {name for name in before if after.get(name) != before[name]}
    assert {"runs/tiny/render/record.json", "runs/tiny/prepare/record.json"} <= changed
    assert not list((tiny.runs / "state").glob("aside-*"))


@pytest.mark.parametrize(
    ("where", "when"),
    [
        ("retrain.choose", "before a candidate was retrained"),
        ("evaluate.measured", "before the winner was measured"),
        ("render.audit_outputs", "before the report was written"),
    ],
)
def test_nor_if_a_last_stage_takes_too_long(
    worked: Worked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, when: str
) -> None:
    sweep = worked.copy(tmp_path / "clone")
    sweep.edit("evaluate", "nelbo_samples", 2)
    if where.startswith("retrain"):
        shutil.rmtree(sweep.runs / "tiny" / "retrain")  # its runs are in the ledger
    before = outputs(sweep)
    passes = lambda *_: signal.raise_signal(signal.SIGALRM)  # noqa: E731
    monkeypatch.setattr(f"pipeline.stages.{where}", passes)
    code, out, err = sweep.give("run", "tiny", "--for", LATER)
    assert (code, out) == (130, "")
    assert f": the time was up {when}; the winner and the report of before stand;" in err
    assert outputs(sweep) == before
    monkeypatch.undo()
    sweep.done("run", "tiny", "--for", LATER)
    sweep.done("verify", "tiny", "--no-mlflow")


def test_a_single_stage_ends_at_the_deadline_of_the_machine(
    worked: Worked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = worked.copy(tmp_path / "clone")
    before = outputs(sweep)
    monkeypatch.setenv("PIPELINE_UNTIL", (now() + timedelta(hours=2)).isoformat())
    passes = lambda *_: signal.raise_signal(signal.SIGALRM)  # noqa: E731
    monkeypatch.setattr("pipeline.stages.evaluate.measured", passes)
    code, out, err = sweep.give("evaluate", "tiny")
    assert (code, out, err.count("\n")) == (130, "", 1)
    assert err.startswith("evaluate tiny: stopped at ")
    assert outputs(sweep) == before


def test_a_search_closes_for_what_is_new_alone(
    worked: Worked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = worked.copy(tmp_path / "clone")
    paths, machine = Paths(sweep.root, "tiny"), Machine(workers=2)
    space = with_budget(load_space(sweep.root, "tiny"), {"search.trials": 6, "retrain.seeds": 3})
    write_json(paths.seconds, {"evaluate": 5.0, "render": 5.0})
    monkeypatch.setattr("pipeline.work.budget_by_deadline.crowding", lambda _: 1.0)
    ledger = Ledger(f"sqlite:///{paths.ledger}")

    def reserve(seconds: float, stands: int) -> Reserve:
        return Reserve(space, now() + timedelta(seconds=seconds), machine, paths, ledger, stands)

    try:
        assert not reserve(7200, 0).search_is_over()
        assert reserve(20, 2).search_is_over()  # three trials have ended
        assert not reserve(20, 3).search_is_over()
        assert not reserve(1, 0).search_is_over()  # out of reach
        assert reserve(1, 0).affordable() == {}  # two runs have ended
        space = with_budget(space, {"retrain.seeds": 4})
        space = space.model_copy(
            update={"retrain": space.retrain.model_copy(update={"epochs": 500})}
        )
        whole, least = ({"retrain.top": 1, "retrain.seeds": seeds} for seeds in (4, 2))
        assert reserve(7200, 0).affordable() == whole
        assert reserve(1, 0).affordable() == least
    finally:
        ledger.close()


@pytest.mark.slow
def test_nor_if_retraining_has_not_come_far_enough(
    tiny: Worked, closes: Closes, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.edit("retrain", "epochs", 5000)  # no run ends before its worker is told to leave
    before = outputs(tiny)
    closes("search", Kind.SEARCH, 4)
    monkeypatch.setattr(Reserve, "retrain_is_over", lambda reserve: True)
    code, _, err = tiny.give("run", "tiny", "--for", LATER)
    assert code == 130
    assert "the time was up before a candidate was retrained; the winner and the report of" in err
    assert outputs(tiny) == before


def test_on_a_machine_that_others_keep_busy_more_is_reserved() -> None:
    def part(*seconds: float) -> Part:
        record = {"core_seconds": 1.0, "ended_ms": 5}
        return cast(Part, SimpleNamespace(curve=[{**record, "seconds": each} for each in seconds]))

    assert crowding([]) == 1.0
    assert crowding([part(0.9, 0.8)]) == 1.0  # with more threads than one
    assert crowding([part(7.0, 8.0), part(9.0)]) == 8.0
    before = cast(
        Part, SimpleNamespace(curve=[{"seconds": 1.0, "core_seconds": 1.0, "ended_ms": 1}])
    )
    assert crowding([*[before] * 50, part(*[6.0] * 20)]) == 6.0  # as it is by now
    kept = cast(Part, SimpleNamespace(curve=[{"nelbo_nats": 1.0}]))
    assert crowding([kept]) == 1.0
