"""The training states of a trial: torn, late, seldom, or a dead worker's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from crews import Killed, Sweep, at_epoch, make_sweep, sweep

from pipeline import trial
from pipeline.study import ledger as ledger_module
from pipeline.study.claim import Lease
from pipeline.study.ledger import LeaseLost
from pipeline.vae.fit import Training
from pipeline.worker import INTERRUPTED


def test_a_zombie_writes_no_checkpoint_over_its_successors(
    tiny: Sweep, undisturbed: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It saves its second epoch while the successor, who began from the first, is in its third."""
    monkeypatch.setattr(trial, "TRAINING_PER_SAVING", 0)
    now, zombie, other = [1e9], tiny.worker(), tiny.worker()
    monkeypatch.setattr(ledger_module, "clock", lambda _: now[0])
    other._owner = "elsewhere/1/2"
    folder = tiny.paths.trial(tiny.study.id, 0)

    def pause(_: Training) -> None:
        now[0] += ledger_module.LEASE_SECONDS + 1
        at_epoch(monkeypatch, 3, lambda _: setattr(other, "stopping", True))
        assert other.work() == INTERRUPTED

    at_epoch(monkeypatch, 2, pause)
    at_end = zombie._ledger.report

    def report(lease: Lease, curve: list[dict[str, Any]]) -> None:
        try:
            at_end(lease, curve)
        except LeaseLost:
            left.extend(sorted(path.name for path in folder.iterdir()))
            zombie.stopping = True
            raise

    left: list[str] = []
    monkeypatch.setattr(zombie._ledger, "report", report)
    assert zombie.work() == INTERRUPTED
    assert left == ["checkpoint-1.safetensors", "checkpoint-2.safetensors"]
    assert len(tiny.trials()[0].curve) == 3
    assert tiny.worker().work() == 0
    assert tiny.tables() == undisturbed.tables()


def test_a_zombie_that_writes_weights_after_its_successor_writes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paused just before: the successor has its last checkpoint and trains no epoch of its own."""
    now, setting = [1e9], {"lr": 0.02, "optimizer": "adam"}
    monkeypatch.setattr(ledger_module, "clock", lambda _: now[0])
    tiny = make_sweep(tmp_path, sweep(retrain={"seeds": 1, "epochs": 30}))
    (study,) = tiny.candidates(setting)
    zombie, other = tiny.worker(None, setting), tiny.worker(None, setting)
    other._owner = "elsewhere/1/2"
    save_run, seen = trial.save_run, []

    def weights() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in tiny.paths.trial(study.id, 0).iterdir()}

    def pause(folder: Path, training: Training) -> None:
        monkeypatch.setattr(trial, "save_run", save_run)
        monkeypatch.delattr(Training, "run_epoch")
        now[0] += ledger_module.LEASE_SECONDS + 1
        assert other.work() == 0
        seen.extend([weights(), tiny.trials(study)])
        save_run(folder, training)

    monkeypatch.setattr(trial, "save_run", pause)
    assert zombie.work() == 0
    assert seen == [weights(), tiny.trials(study)]
    names = ["first_epoch.safetensors", "last_epoch.safetensors", "model.safetensors"]
    assert sorted(weights()) == names
    assert len(set(weights().values())) == 3  # the best epoch is neither the first nor the last


@pytest.mark.parametrize("dies", [True, False])
def test_epochs_that_were_not_saved_are_trained_again(
    dies: bool, tiny: Sweep, undisturbed: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs so short that only the first is saved; who is told to stop saves the last one, too."""
    monkeypatch.setattr(trial, "TRAINING_PER_SAVING", 1e9)
    worker, began = tiny.worker(), []

    def end(_: Training) -> None:
        if dies:
            raise Killed
        worker.stopping = True

    at_epoch(monkeypatch, 3, end)
    if dies:
        with pytest.raises(Killed):
            worker.work()
        worker._ledger.release(worker._owner, blameless=True)
    else:
        assert worker.work() == INTERRUPTED
    (before,) = tiny.trials()
    load = trial.Checkpoints.load

    def loaded(checkpoints: trial.Checkpoints, training: Training) -> None:
        load(checkpoints, training)
        began.append(len(training.records))

    monkeypatch.setattr(trial.Checkpoints, "load", loaded)
    assert tiny.worker().work() == 0
    assert began == [1 if dies else 3, *[0] * (tiny.study.budget - 1)]
    assert tiny.trials()[0].curve[: len(before.curve)] == before.curve  # with their times
    assert tiny.tables() == undisturbed.tables()


def test_a_torn_checkpoint_is_passed_over(
    tiny: Sweep,
    undisturbed: Sweep,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    worker = tiny.worker()
    at_epoch(monkeypatch, 3, lambda _: setattr(worker, "stopping", True))
    assert worker.work() == INTERRUPTED
    (checkpoint,) = tiny.paths.trial(tiny.study.id, 0).iterdir()
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    assert tiny.worker().work() == 0
    assert f"passed over: {checkpoint}: " in capsys.readouterr().err
    assert tiny.tables() == undisturbed.tables()
    assert not list(checkpoint.parent.iterdir())
