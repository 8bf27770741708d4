"""The pool of worker processes, with scripts in place of workers."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from crews import eventually

from pipeline.errors import UserError
from pipeline.work import pool as local
from pipeline.work.causes import MOVES
from pipeline.work.pool import MAX_DEATHS_IN_A_ROW, Pool, WorkersKeepDying


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Pool]:
    def make(
        script: str,
        count: int = 1,
        blamed: bool = False,
        progress: Callable[[], object] = int,
        alone: Callable[[int], list[str]] = lambda _: [],
    ) -> Pool:
        program = tmp_path / "python"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        made = Pool(
            ["worker"], count, tmp_path, tmp_path, dict(os.environ), lambda *_: blamed, progress,
            alone,
        )  # fmt: skip
        made.start()
        return made

    return make


def poll_to_the_end(pool: Pool) -> bool:
    try:
        eventually(lambda: pool.alive() == 0, "all workers have left")
        return True
    finally:
        pool.kill()


def test_a_pool_is_done_when_all_have_left_well(pool: Callable[..., Pool]) -> None:
    assert poll_to_the_end(pool("exit 0", count=3))


def test_every_worker_knows_its_slot_and_its_successor_takes_it(
    pool: Callable[..., Pool], tmp_path: Path
) -> None:
    script = 'for slot; do :; done; echo >> "$slot.count"; [ $(wc -l < "$slot.count") -ge 2 ]'
    ticks = iter(range(100))
    assert poll_to_the_end(pool(f"cd {tmp_path}; {script}", 3, progress=lambda: next(ticks)))
    assert [(tmp_path / f"{slot}.count").read_text() for slot in range(3)] == ["\n\n"] * 3


def test_workers_that_die_at_once_again_and_again_end_the_pool_with_their_last_words(
    pool: Callable[..., Pool], tmp_path: Path
) -> None:
    with pytest.raises(WorkersKeepDying) as caught:
        poll_to_the_end(pool("echo one more >&2; exit 1"))
    assert f"{MAX_DEATHS_IN_A_ROW + 1} workers died in a row" in str(caught.value)
    assert "exit code 1" in str(caught.value)
    assert str(caught.value).endswith("one more")
    log = (tmp_path / "worker-0.log").read_text()
    assert log == "one more\n" * (MAX_DEATHS_IN_A_ROW + 1)


ONCE_IN_TEN = 'echo >> "$0.count"; [ $(wc -l < "$0.count") -ge 10 ] || kill -{} $$'


@pytest.mark.parametrize("kind", ["KILL", "SEGV"])
def test_deaths_do_not_count_while_there_is_progress(kind: str, pool: Callable[..., Pool]) -> None:
    ticks = iter(range(100))
    assert poll_to_the_end(pool(ONCE_IN_TEN.format(kind), progress=lambda: next(ticks)))


def test_deaths_that_a_trial_is_blamed_for_do_not_count(pool: Callable[..., Pool]) -> None:
    """They are bounded by the trial's strikes; with four such trials there are a dozen."""
    assert poll_to_the_end(pool(ONCE_IN_TEN.format("SEGV"), blamed=True))


def test_a_worker_that_finds_the_input_wrong_ends_the_pool_at_once(
    pool: Callable[..., Pool], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"^device cuda is not there$"):
        poll_to_the_end(pool("echo error: device cuda is not there >&2; exit 2"))
    assert (tmp_path / "worker-0.log").read_text().count("error:") == 1


def test_workers_that_leave_when_asked_are_not_replaced(pool: Callable[..., Pool]) -> None:
    stopped = pool("trap 'exit 130' TERM; echo ready; while :; do sleep 0.05; done", count=2)
    logs = [slot.log for slot in stopped._slots]
    eventually(lambda: all("ready" in log.read_text() for log in logs), "workers are at work")
    assert stopped.alive() == 2
    stopped.stop()
    assert poll_to_the_end(stopped)


def test_killing_leaves_no_one(pool: Callable[..., Pool]) -> None:
    killed = pool("trap '' TERM; sleep 60", count=2)
    pids = [slot.process.pid for slot in killed._slots]
    killed.kill()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert killed.alive() == 0


def test_a_worker_notices_the_end_of_its_parent(pool: Callable[..., Pool], tmp_path: Path) -> None:
    """Its standard input ends when its parent does, and no other worker holds that pipe open."""
    done = tmp_path / "done"
    orphans = pool(f"read line; echo >> {done}", count=3)
    stdins = [slot.process.stdin for slot in orphans._slots]
    for stdin in stdins:  # what the kernel does when a process ends
        assert stdin
        stdin.close()
    eventually(lambda: done.exists() and len(done.read_text()) == 3, "all three have noticed")
    for slot in orphans._slots:
        slot.process.wait()


@pytest.mark.parametrize("end", ["echo EIO >&2; exit 71", "echo EIO >&2; kill -KILL $$"])
def test_a_machine_that_does_not_cease_to_fail_is_told_in_one_line(
    end: str, pool: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "PATIENCE", 2.0)
    with pytest.raises(UserError) as caught:
        poll_to_the_end(pool(end))
    why = "EIO" if "71" in end else "a worker was ended by signal 9"
    assert re.fullmatch(
        rf"this machine has failed \d+ times without any progress, last: {why}: mend that, then the"
        r" same command goes on",
        str(caught.value),
    )


def test_the_machine_may_fail_often_as_long_as_there_is_progress(
    pool: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "PATIENCE", 0.0)
    ticks = iter(range(100))
    script = 'echo >> "$0.count"; [ $(wc -l < "$0.count") -ge 10 ] || exit 71'
    assert poll_to_the_end(pool(script, progress=lambda: next(ticks)))


def test_who_lacks_memory_gets_the_machine_for_itself_and_then_all_come_back(
    pool: Callable[..., Pool], tmp_path: Path
) -> None:
    """The others leave first, and it is told what it was at."""
    script = f"""cd {tmp_path}
for slot; do :; done
echo "$@" >> said
[ -e over ] && exit 0
case "$*" in *--only*) [ -e busy ] && echo not alone >> said; touch over; exit 0;; esac
[ $slot = 1 ] && until [ -e busy ]; do sleep 0.02; done
[ $slot = 1 ] && exit 72
trap "rm busy; exit 130" TERM
touch busy
while :; do sleep 0.02; done"""
    assert poll_to_the_end(pool(script, count=2, alone=lambda slot: ["--only", f"x/{slot}"]))
    calls = (tmp_path / "said").read_text().splitlines()
    assert "not alone" not in calls
    assert sum("--only x/1 1" in call for call in calls) == 1
    assert [call[-1] for call in sorted(calls[-2:])] == ["0", "1"]


def test_a_worker_that_the_kernel_kills_alone_for_want_of_memory_is_its_own_doing(
    pool: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    kills, own = iter(range(100)), []
    monkeypatch.setattr(local, "oom_kills", lambda: next(kills))
    watched = pool('echo >> "$0.count"; [ $(wc -l < "$0.count") -ge 4 ] || kill -KILL $$')

    def on_death(_: int, its_own: bool) -> bool:
        own.append(its_own)
        return its_own

    watched._on_death = on_death
    assert poll_to_the_end(watched)
    assert own == [False, True, True]  # the first had neighbours, as far as is known


def test_a_worker_that_moves_to_another_gpu_is_no_death(
    pool: Callable[..., Pool], tmp_path: Path
) -> None:
    most = MAX_DEATHS_IN_A_ROW + 3
    script = f"cd {tmp_path}; echo >> count; [ $(wc -l < count) -ge {most} ] || exit {MOVES}"
    assert poll_to_the_end(pool(script))
