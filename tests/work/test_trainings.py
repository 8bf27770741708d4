"""Trials that fail: with their reason, by the gate, and for want of a device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from crews import Sweep, at_epoch, make_sweep, sweep

from pipeline.errors import UserError
from pipeline.stages import search
from pipeline.vae.process import resolve_device
from pipeline.vae.setting import read_setting
from pipeline.vae.training import Training
from pipeline.work.worker import Worker


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("no such thing"), "ValueError: no such thing"),
        (SystemExit(0), "SystemExit: 0"),  # of a file of one's own, as a script has it
        (
            RuntimeError("CUDA error: device-side assert triggered"),
            "RuntimeError: CUDA error: device-side assert triggered",
        ),
    ],
    ids=str,
)
def test_a_trial_that_raises_fails_with_its_reason_and_the_search_goes_on(
    error: BaseException, reason: str, tiny: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Training) -> None:
        raise error

    at_epoch(monkeypatch, 2, fail)
    assert tiny.worker().work() == 0
    first, *others = tiny.trials()
    assert first.state == "failed"
    assert first.reason is not None
    assert first.reason.splitlines()[0] == reason
    assert "Traceback" in first.reason
    assert len(first.curve) == 1
    assert not list(tiny.paths.trial(tiny.study.id, 0).iterdir())
    assert len(others) == tiny.study.budget - 1
    assert "complete" in {trial.state for trial in others}


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("3 GiB"),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: uncorrectable ECC error encountered"),
        OSError(5, "Input/output error"),
    ],
    ids=str,
)
def test_what_is_the_machines_doing_ends_the_worker_and_not_the_trial(
    error: Exception, tiny: Sweep, undisturbed: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Training) -> None:
        raise error

    at_epoch(monkeypatch, 2, fail)
    worker = tiny.worker()
    with pytest.raises(type(error)):
        worker.work()
    (trial,) = tiny.trials()
    assert (trial.state, len(trial.curve)) == ("running", 1)
    tiny.ledger.release(worker.who.owner, blameless=True)
    assert tiny.worker().work() == 0
    assert tiny.tables() == undisturbed.tables()


@pytest.mark.parametrize("room", [True, False])
def test_a_trial_that_does_not_fit_into_an_empty_device_fails(
    room: bool, tiny: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: object) -> None:
        raise MemoryError("a decoder of 300 GiB")

    monkeypatch.setattr("pipeline.vae.training.build", too_large)
    monkeypatch.setattr("pipeline.work.trainings.has_room", lambda _: room)
    first = tiny.worker()
    with pytest.raises(MemoryError):
        first.work()
    tiny.ledger.release(first.who.owner, blameless=True)
    alone = Worker(first._job, tiny.ledger, tiny.root, "cpu", only=f"{tiny.study.id}/0")
    if not room:
        with pytest.raises(MemoryError):
            alone.work()
        return
    assert alone.work() == 0
    (trial,) = tiny.trials()
    assert trial.state == "failed"
    assert str(trial.reason).startswith("too large for cpu, alone on it: out of memory: a decoder")


def test_when_every_trial_fails_the_stage_says_why(tmp_path: Path) -> None:
    """Plain steps so long that the loss explodes at once."""
    raw = sweep(parameters={"lr": 10.0, "optimizer": "sgd", "momentum": 0.9}, search={"trials": 3})
    raw["parameters"]["latent_dim"] = {"choices": [3, 4]}
    made = make_sweep(tmp_path, raw)
    assert made.worker().work() == 0
    machine = made.machine()
    with pytest.raises(UserError, match=r"none of 3 trials succeeded: the training loss is not"):
        search.run(made.space, machine, made.paths)
    assert not made.paths.search.exists()


def test_a_diverged_trial_says_so(tmp_path: Path) -> None:
    raw = sweep(parameters={"lr": 10.0, "optimizer": "sgd", "momentum": 0.9})
    raw["parameters"]["latent_dim"] = {"choices": [3, 4]}
    made = make_sweep(tmp_path, raw)
    assert made.worker().work() == 0
    assert {t.reason for t in made.trials()} == {"the training loss is not finite in epoch 1"}


def test_the_gate_does_not_depend_on_which_trial_came_first(tmp_path: Path) -> None:
    """Each model has a σ of its own, by which the mean image must not be measured."""
    raw = sweep(model={"likelihood": "gaussian", "sigma": "optimal"}, search={"trials": 2})
    made = make_sweep(tmp_path, raw)
    trainer = made.worker().trainer
    gates: list[float | None] = []
    for seed, lr in ((0, 0.001), (1, 0.02)):
        setting = read_setting(made.space.record({"lr": lr}))
        trained = Training(trainer._train, trainer._validation, setting, seed, 3)
        while not trained.finished:
            trained.run_epoch()
        trainer._gate = None
        trainer._mean_image_nelbo(trained)
        gates.append(trainer._gate)
    assert gates[0] == gates[1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_device_that_is_not_there_is_the_users_to_correct(tiny: Sweep) -> None:
    assert resolve_device("auto") == "cpu"
    with pytest.raises(UserError, match=r"^device cuda:1 cannot be used: .*machine\.yaml$"):
        resolve_device("cuda:1")
    with pytest.raises(UserError):
        Worker(tiny.worker()._job, tiny.ledger, tiny.root, "cuda")


def test_workers_take_the_gpus_of_their_machine_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [resolve_device("auto", slot) for slot in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
