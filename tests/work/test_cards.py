"""Idle GPUs, by an NVML whose cards are made of numbers: there is none on most machines."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from crews import Sweep

from pipeline.commands.run import run_stages
from pipeline.errors import OutOfTime, UserError
from pipeline.paths import STAGES
from pipeline.settings.deadline import now
from pipeline.settings.machine import Machine
from pipeline.work import cards
from pipeline.work.causes import MOVES
from pipeline.work.worker import Worker

MINE, COMMAND, OTHER = os.getpid(), os.getppid(), 4711


class NVMLError(Exception):
    pass


class NotSupported(NVMLError):
    pass


@dataclass
class Gpu:
    """What NVML tells of a card: one look after the other, the last of them for ever."""

    uuid: str
    processes: list[tuple[int, int]] = field(default_factory=list)  # pid, bytes
    used: int = 0
    percents: list[int] = field(default_factory=lambda: [0])
    split: bool | None = None  # by MIG; None: it cannot be
    lost: bool = False
    looks: int = 0

    def answer(self, what: Any) -> Any:
        if self.lost:
            raise NVMLError("GPU is lost")
        return what

    def utilization(self) -> SimpleNamespace:
        percent = self.percents[min(self.looks, len(self.percents) - 1)]
        self.looks += 1
        return SimpleNamespace(gpu=percent)

    def migration(self) -> list[int]:
        if self.split is None:
            raise NotSupported("Not Supported")
        return [int(self.split)] * 2

    def running(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in self.processes]


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Gpu]]:
    """The cards of this box, to be set by the test; CUDA binds to what it is shown."""
    gpus: list[Gpu] = []
    nvml: Any = ModuleType("pynvml")
    nvml.NVMLError, nvml.NVMLError_NotSupported = NVMLError, NotSupported
    nvml.nvmlInit = lambda: None
    nvml.nvmlDeviceGetCount = lambda: len(gpus)
    nvml.nvmlDeviceGetHandleByIndex = lambda index: gpus[index].answer(gpus[index])
    nvml.nvmlDeviceGetUUID = lambda gpu: gpu.uuid
    nvml.nvmlDeviceGetMigMode = lambda gpu: gpu.migration()
    nvml.nvmlDeviceGetComputeRunningProcesses = lambda gpu: gpu.answer(gpu.running())
    nvml.nvmlDeviceGetMemoryInfo = lambda gpu: SimpleNamespace(total=100, used=gpu.used)
    nvml.nvmlDeviceGetUtilizationRates = lambda gpu: gpu.utilization()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(cards, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(cards, "time", SimpleNamespace(sleep=never))
    monkeypatch.setattr(cards, "own", cards.Own())
    monkeypatch.setattr(torch.cuda, "init", lambda: bound.append(os.environ[cards.VISIBLE]))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delenv(cards.VISIBLE, raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    bound.clear()
    yield gpus
    cards.leave()


def never(seconds: float) -> None:
    assert not seconds, "nothing is to be waited for"


bound: list[str] = []  # what CUDA was shown when it began


@pytest.fixture
def waiting(box: list[Gpu], monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Puts these changes in the place of waiting, one for each time."""

    def put(*changes: Callable[[], object]) -> list[int]:
        left, waits = list(changes), [0]

        def sleep(_: float) -> None:
            waits[0] += 1
            left.pop(0)()

        monkeypatch.setattr(cards, "time", SimpleNamespace(sleep=lambda s: sleep(s) if s else None))
        return waits

    return put


@pytest.mark.parametrize(
    ("busy", "why"),
    [
        (Gpu("a", processes=[(OTHER, 0)]), "process 4711 computes on it"),
        (Gpu("a", used=11), "0.0 of 0.0 GB are taken"),
        (Gpu("a", percents=[0, 0, 11, 0]), "11 % busy"),
        (Gpu("a", lost=True), None),
        (Gpu("a", split=True), None),
    ],
)
def test_a_card_that_is_not_idle_is_left_alone(busy: Gpu, why: str | None, box: list[Gpu]) -> None:
    box += [busy, Gpu("b", used=10, percents=[10], split=False)]
    assert cards.granted("idle") == "cuda"
    assert bound == ["b"]
    assert cards.VISIBLE not in os.environ
    if why:
        busy.looks = 0
        assert cards._busy(cards.cards()[0]) == why


def test_other_devices_are_as_they_were(box: list[Gpu]) -> None:
    assert [cards.granted(device) for device in ("auto", "cuda:1", "cpu")] == [
        "auto",
        "cuda:1",
        "cpu",
    ]
    assert cards.neighbour() == ""
    assert bound == []


def test_two_processes_never_have_the_same(box: list[Gpu], waiting: Any) -> None:
    box += [Gpu("a"), Gpu("b")]
    with socket.socket(socket.AF_UNIX) as other:
        other.bind("\0vae-pipeline-a")
        assert cards.granted("idle") == "cuda"
    assert bound == ["b"]
    with socket.socket(socket.AF_UNIX) as third, pytest.raises(OSError, match="in use"):
        third.bind("\0vae-pipeline-b")


def test_it_waits_until_a_neighbour_has_left(
    box: list[Gpu], waiting: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    box += [Gpu("a", processes=[(OTHER, 0)]), Gpu("b", percents=[90, 90, 0])]
    waits = waiting(lambda: None, lambda: None)
    assert cards.granted("idle") == "cuda"
    assert (waits, bound) == ([2], ["b"])
    said = "waits for an idle GPU (0: process 4711 computes on it, 1: 90 % busy)\n"
    assert capsys.readouterr().err == said


def test_it_waits_no_longer_than_it_is_to(box: list[Gpu], waiting: Any) -> None:
    box += [Gpu("a", percents=[90])]
    told: list[bool] = []
    waiting(lambda: told.append(True))
    assert cards.granted("idle", lambda: bool(told)) == "idle"
    assert bound == []


def test_nor_past_a_deadline(box: list[Gpu]) -> None:
    box += [Gpu("a", percents=[90])]
    with pytest.raises(OutOfTime, match=r"no GPU is idle \(0: 90 % busy\) by .*, the time limit:"):
        cards.granted("idle", until=now() - timedelta(seconds=1))
    box[0] = Gpu("b")
    assert cards.granted("idle", until=now() - timedelta(seconds=1)) == "cuda"


@pytest.mark.parametrize("device", ["idle", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_before_anything_is_made(
    device: str, box: list[Gpu], tmp_path: Path
) -> None:
    (tmp_path / "search_spaces").mkdir()
    (tmp_path / "search_spaces" / "tiny.yaml").write_text("data: {name: digits}\n")
    with pytest.raises(UserError, match=f"^device {device}"):
        run_stages(STAGES, tmp_path, "tiny", Machine(device=device))
    assert [path.name for path in tmp_path.rglob("*")] == ["search_spaces", "tiny.yaml"]


def test_no_driver_no_card_no_library(box: list[Gpu], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="a GPU is asked for, but there is none: see"):
        cards.granted("idle")
    box += [Gpu("a", split=True)]
    with pytest.raises(UserError, match="0 is split by MIG"):
        cards.granted("idle")
    box[:] = [Gpu("a", lost=True)]
    with pytest.raises(UserError, match="of 0 it is said: GPU is lost"):
        cards.granted("idle")
    box[:] = [Gpu("a")]
    monkeypatch.setenv(cards.VISIBLE, "1")
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES does not name it"):
        cards.granted("idle")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with pytest.raises(UserError, match="for boxes without Slurm"):
        cards.granted("idle")
    monkeypatch.delenv("SLURM_JOB_ID")

    def fails() -> None:
        raise NVMLError("Driver Not Loaded")

    monkeypatch.setattr(sys.modules["pynvml"], "nvmlInit", fails)
    with pytest.raises(UserError, match=r"there is none \(Driver Not Loaded\)"):
        cards.granted("idle")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(UserError, match="nvidia-ml-py, which is not installed"):
        cards.granted("idle")


def test_a_person_says_which_may_be_taken(box: list[Gpu], monkeypatch: pytest.MonkeyPatch) -> None:
    box += [Gpu("a"), Gpu("b"), Gpu("c")]
    monkeypatch.setenv(cards.VISIBLE, "1, c")
    assert [card.uuid for card in cards.cards()] == ["b", "c"]
    assert cards.granted("idle") == "cuda"
    assert (bound, os.environ[cards.VISIBLE]) == (["b"], "1, c")


def test_a_command_takes_the_card_that_it_had_and_gives_it_to_its_workers(
    box: list[Gpu], waiting: Any
) -> None:
    """CUDA is bound to it, so no other one will do."""
    box += [Gpu("a"), Gpu("b")]
    assert cards.granted("idle") == "cuda"
    cards.leave()
    with socket.socket(socket.AF_UNIX) as worker:
        worker.bind("\0vae-pipeline-a")
        waits = waiting(worker.close, lambda: box[0].processes.pop(0))
        box[0].processes, box[0].used = [(OTHER, 0), (MINE, 60)], 65
        assert cards.granted("idle") == "cuda"
    assert (waits, bound) == ([2], ["a"])
    assert cards.granted("idle") == "cuda"  # it has it still


def test_what_the_command_keeps_is_no_neighbour(box: list[Gpu]) -> None:
    box += [Gpu("a", processes=[(COMMAND, 50)], used=55)]
    assert cards.granted("idle") == "cuda"
    box[0].processes += [(MINE, 30)]
    assert cards.neighbour() == ""
    box[0].processes += [(OTHER, 30)]
    assert cards.neighbour() == "process 4711 computes on it"
    box[0].lost = True
    assert cards.neighbour() == "GPU is lost"


def test_in_a_container_that_numbers_processes_otherwise(box: list[Gpu]) -> None:
    box += [Gpu("a")]
    assert cards.granted("idle") == "cuda"
    box[0].processes = [(99_999_999, 30)]  # this process, by its number outside
    assert cards.neighbour() == ""


def test_a_worker_leaves_before_its_next_part_when_a_neighbour_comes(
    box: list[Gpu], tiny: Sweep, undisturbed: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    box += [Gpu("a")]
    assert cards.granted("idle") == "cuda"
    box[0].processes = [(MINE, 30)]
    run = Worker.run

    def then_one_comes(self: Worker, *arguments: Any) -> None:
        run(self, *arguments)
        box[0].processes.append((OTHER, 30))

    monkeypatch.setattr(Worker, "run", then_one_comes)
    assert tiny.worker().work() == MOVES
    (part,) = tiny.trials()
    assert (part.owner, part.strikes) == (None, 0)
    box[0].processes.pop()
    monkeypatch.setattr(Worker, "run", run)
    assert tiny.worker().work() == 0
    assert tiny.tables() == undisturbed.tables()
