"""Whose process is whose: containers, namesakes, reboots, and systems without /proc."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from desk import STUDY, Desk

from pipeline.work import owners
from pipeline.work.owners import (
    is_gone,
    is_here,
    owner_name,
    process_start,
    shown,
)

ROOT = Path(__file__).parents[2]
CONTAINER = ["unshare", "--pid", "--fork", "--mount-proc"]


@pytest.fixture
def fresh_place() -> Iterator[None]:
    """This host is looked at again, and again after the test."""
    owners.place.cache_clear()
    yield
    owners.place.cache_clear()


def test_a_name_is_for_people_too() -> None:
    name = owner_name(os.getpid())
    assert shown(name) == f"process {os.getpid()} on {socket.gethostname()}"
    assert len(name) < 200
    assert is_here(name)
    assert not is_gone(name)


def test_a_host_may_have_any_name() -> None:
    _, rest = owner_name(os.getpid()).rsplit("@", 1)
    name = f"a/b@c@{rest}"
    assert shown(name) == f"process {os.getpid()} on a/b@c"
    assert is_here(name)
    assert not is_gone(name)


@pytest.mark.parametrize("owner", ["box/4711/99", f"{os.uname().nodename}/4711/99"])
def test_a_name_of_older_code_is_foreign(owner: str) -> None:
    assert shown(owner) == f"process 4711 on {owner.split('/')[0]}"
    assert not is_here(owner)


def test_containers_of_one_name_do_not_bury_each_others_workers(storage: str) -> None:
    """In another process namespace our process numbers mean nothing, whatever the host's name."""
    if not shutil.which("unshare") or subprocess.run([*CONTAINER, "true"]).returncode:
        pytest.skip("process namespaces need root")
    desk, me = Desk(storage), owner_name(os.getpid())
    desk.must_claim(me)
    code = (
        "import sys; from pipeline.work.owners import *\n"
        "from pipeline.study.storage.ledger import Ledger\n"
        "ledger = Ledger(sys.argv[1]); release_the_dead(ledger); ledger.close()\n"
        "print(owner_name(1))"
    )
    done = subprocess.run(
        [*CONTAINER, sys.executable, "-c", code, storage],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert desk.row().owner == me
    there = done.stdout.strip()
    assert there.split("@")[0] == me.split("@")[0]
    assert not is_here(there)
    desk.ledger.close()


def test_what_was_held_before_a_power_cut_is_ours_to_release(
    fresh_place: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str
) -> None:
    desk, proc = Desk(storage), tmp_path / "proc"
    (proc / "sys/kernel/random").mkdir(parents=True)
    (proc / "self/ns").mkdir(parents=True)
    monkeypatch.setattr(owners, "PROC", proc)

    def boot(id_: str, namespace: str) -> None:
        (proc / "sys/kernel/random/boot_id").write_text(id_)
        (proc / "self/ns/pid").unlink(missing_ok=True)
        (proc / "self/ns/pid").symlink_to(namespace)
        owners.place.cache_clear()

    for namespace, released in ((owners.OUTERMOST, True), ("pid:[4026532179]", False)):
        boot("first", namespace)
        lease = desk.must_claim(owner_name(os.getpid()))
        boot("second", namespace)
        owners.release_the_dead(desk.ledger)
        assert (desk.row(lease.number).owner is None) is released
        if released:
            desk.ledger.release("", blameless=True)
            desk.complete(desk.must_claim("a"))
    assert desk.row(0).strikes == 0
    assert desk.ledger.owners(STUDY)
    desk.ledger.close()


def test_without_proc_psutil_tells(
    fresh_place: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owners, "PROC", tmp_path / "nothing")
    monkeypatch.setattr(owners, "MACHINE_ID", tmp_path / "nothing")
    process = subprocess.Popen(["sleep", "60"])
    name = owner_name(process.pid)
    assert name.endswith(f"/{process.pid}/{process_start(process.pid)}")
    assert is_here(name)
    assert not is_gone(name)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, though nobody has waited
    assert is_gone(name)
    process.wait()
    assert process_start(process.pid) == ""
    assert is_gone(name)
