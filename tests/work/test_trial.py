"""The training states of a trial: torn, late, seldom, or a dead worker's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from crews import Killed, Sweep, at_epoch, make_sweep, sweep

from pipeline.study.storage import ledger as ledger_module
from pipeline.study.storage.claim import Claimant, Lease, Plan
from pipeline.study.storage.ledger import LeaseLost
from pipeline.study.storage.workers import Presence
from pipeline.vae.steps import EagerSteps
from pipeline.vae.training import Training
from pipeline.work import checkpoints, trial
from pipeline.work.worker import INTERRUPTED, Worker


def test_a_zombie_writes_no_checkpoint_over_its_successors(
    tiny: Sweep, undisturbed: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It saves its second epoch while the successor, who began from the first, is in its third."""
    monkeypatch.setattr(checkpoints, "TRAINING_PER_SAVING", 0)
    now, zombie, other = [1e9], tiny.worker(), tiny.worker(presence=Presence("elsewhere/1/2"))
    monkeypatch.setattr(ledger_module, "clock", lambda _: now[0])
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
    assert left == ["checkpoint-0-1.safetensors", "checkpoint-0-2.safetensors"]
    assert len(tiny.trials()[0].curve) == 2
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
    zombie = tiny.worker(None, setting)
    other = tiny.worker(None, setting, presence=Presence("elsewhere/1/2"))
    save_run, seen = trial.save_run, []

    def weights() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in tiny.paths.trial(study.id, 0).iterdir()}

    def pause(folder: Path, training: Training) -> dict[str, str]:
        monkeypatch.setattr(trial, "save_run", save_run)
        monkeypatch.delattr(Training, "run_epoch")
        now[0] += ledger_module.LEASE_SECONDS + 1
        assert other.work() == 0
        seen.extend([weights(), tiny.trials(study)])
        return save_run(folder, training)

    monkeypatch.setattr(trial, "save_run", pause)
    assert zombie.work() == 0
    assert seen == [weights(), tiny.trials(study)]
    names = ["first_epoch.safetensors", "last_epoch.safetensors", "model.safetensors"]
    assert sorted(weights()) == names
    assert len(set(weights().values())) == 3  # the best epoch is neither the first nor the last


def leave(worker: Worker, *, killed: bool) -> None:
    """Works until it is killed, and given up by who sees that, or is told to stop."""
    if not killed:
        assert worker.work() == INTERRUPTED
        return
    with pytest.raises(Killed):
        worker.work()
    worker._ledger.release(worker.who.owner, blameless=True)


@pytest.mark.parametrize("dies", [True, False])
def test_epochs_that_were_not_saved_are_trained_again(
    dies: bool, tiny: Sweep, undisturbed: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs so short that only the first is saved; who is told to stop saves where it is."""
    monkeypatch.setattr(checkpoints, "TRAINING_PER_SAVING", 1e9)
    worker, began = tiny.worker(), []

    def end(_: Training) -> None:
        if dies:
            raise Killed
        worker.stopping = True

    at_epoch(monkeypatch, 2, end)
    leave(worker, killed=dies)
    (before,) = tiny.trials()
    load = checkpoints.Checkpoints.load

    def loaded(states: checkpoints.Checkpoints, training: Training) -> None:
        load(states, training)
        began.append((len(training.records), training.taken))

    monkeypatch.setattr(checkpoints.Checkpoints, "load", loaded)
    assert tiny.worker().work() == 0
    assert began[0] == ((1, 0) if dies else (1, 1))
    new = [(part.since, 0) for part in tiny.ledger.parts(tiny.study.id)]
    assert sorted(began[1:]) == sorted(new[1:])
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
    assert [path.name for path in checkpoint.parent.iterdir()] != [checkpoint.name]


@pytest.mark.parametrize("changed", ["parameters", "arithmetic"])
def test_the_checkpoint_of_another_trial_of_that_number_is_passed_over(
    changed: str,
    tiny: Sweep,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The ledger was moved away, and trial 0 of the new one is not what it was."""
    worker = tiny.worker()
    if changed == "arithmetic":
        worker.who.meta["arithmetic"] = {"torch": "2.0"}
    at_epoch(monkeypatch, 3, lambda _: setattr(worker, "stopping", True))
    assert worker.work() == INTERRUPTED
    (checkpoint,) = tiny.paths.trial(tiny.study.id, 0).iterdir()
    (old,) = tiny.trials()
    worker._ledger.close()
    for path in tiny.paths.ledger.parent.glob(f"{tiny.paths.ledger.name}*"):
        path.unlink()
    afresh = make_sweep(tmp_path / "afresh")
    for made in (tiny, afresh):
        again = made.worker()
        chosen = {"lr": 0.01, "optimizer": "adam"} if changed == "parameters" else old.parameters
        assert chosen
        plan = Plan(0, 0, 0, 3, 0, None, 1, chosen, [], 0)
        assert again._ledger.begin(made.study.id, plan, Claimant("a", {}, True))
        again._ledger.release("a", blameless=True)
        assert again.work() == 0
    said = capsys.readouterr().err
    assert f"passed over: {checkpoint}: it is of another training: {changed}\n" in said
    assert tiny.tables() == afresh.tables()


class TestPaused:
    def test_states_that_are_gone_are_trained_again_to_the_same_bytes(
        self, tiny: Sweep, undisturbed: Sweep, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        worker, begun = tiny.worker(), []
        begin = worker._ledger.begin

        def forgetful(*arguments: Any, **options: Any) -> Any:
            for path in tiny.paths.study(tiny.study.id).glob("trial-*/checkpoint-*"):
                path.unlink()
            begun.append(arguments[1].since)
            return begin(*arguments, **options)

        monkeypatch.setattr(worker._ledger, "begin", forgetful)
        assert worker.work() == 0
        assert any(begun)
        assert tiny.tables() == undisturbed.tables()
        parts = tiny.ledger.parts(tiny.study.id)
        for part in parts:
            assert [record["epoch"] for record in part.curve] == list(range(1, len(part.curve) + 1))

    def test_a_paused_trial_keeps_its_newest_state_and_an_ended_one_none(self, tiny: Sweep) -> None:
        assert tiny.worker().work() == 0
        for trial_ in tiny.trials():
            folder = tiny.paths.trial(tiny.study.id, trial_.number)
            states = list(folder.glob("checkpoint-*"))
            assert len(states) == (trial_.state == "paused")

    def test_the_newest_of_many_are_kept_and_leftovers_go(self, tmp_path: Path) -> None:
        for number in range(40):
            folder = tmp_path / f"trial-{number:05d}"
            folder.mkdir()
            (folder / f"checkpoint-{number}-1.safetensors").write_bytes(b"x")
            os.utime(folder / f"checkpoint-{number}-1.safetensors", (number, number))
            (folder / ".half").write_bytes(b"x")
        checkpoints.clear_finished(tmp_path, range(5), range(5, 39))  # 39 is at work
        left = sorted(tmp_path.glob("*/checkpoint-*"))
        assert [int(path.parent.name[-5:]) for path in left] == list(range(7, 40))
        assert [path.parent.name for path in tmp_path.glob("*/.half")] == ["trial-00039"]


@pytest.mark.parametrize("ends", ["told", "killed"])
def test_a_long_epoch_goes_on_after_its_last_saved_step(
    ends: str, tiny: Sweep, undisturbed: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is told to stop leaves after the present step; of who is killed, little is lost."""
    if ends == "killed":
        monkeypatch.setattr(checkpoints, "MOST_UNSAVED_SECONDS", 0.0)
        monkeypatch.setattr(checkpoints, "TRAINING_PER_SAVING", 0)
    take, worker = EagerSteps.take, tiny.worker()
    taken: list[int] = []

    def counted(steps: EagerSteps, number: int) -> None:
        taken.append(number)
        if len(taken) == 2:  # within the first epoch
            if ends == "killed":
                raise Killed
            worker.stopping = True
        take(steps, number)

    monkeypatch.setattr(EagerSteps, "take", counted)
    leave(worker, killed=ends == "killed")
    assert taken == [0, 1]
    assert tiny.worker().work() == 0
    assert taken[2:4] == ([1, 2] if ends == "killed" else [2, 3])
    assert tiny.tables() == undisturbed.tables()
