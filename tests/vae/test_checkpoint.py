"""Files of weights and training states: exact, whole or absent, and never a pickle."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from trainings import config, digits, run, same, training

from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.vae.checkpoint import (
    Unreadable,
    load_model,
    load_training,
    save_training,
    save_weights,
)
from pipeline.vae.training import Leaves, Training

FAMILIES = ["mlp", "conv_stride", "conv_pool", "residual"]
OPTIMIZERS = ["adam", "adamw", "adamax", "rmsprop", "sgd"]


def run_with_restarts(file: Path, epochs: int, changes: dict[str, Any], leaves: Leaves) -> Training:
    """The same training, with every epoch, or every step, by a process of its own, so to speak."""
    part = training(epochs=epochs, **changes)
    while not part.finished:
        part.run_epoch(leaves)
        save_training(file, part)
        part = training(epochs=epochs, **changes)
        load_training(file, part)
    return part


def assert_equal_to_uninterrupted(file: Path, epochs: int = 4, **changes: Any) -> Training:
    whole = run(training(epochs=epochs, **changes))
    for leaves in (lambda: False, lambda: True):
        part = run_with_restarts(file, epochs, changes, leaves)
        assert part.records == whole.records
        assert part.kept_epoch == whole.kept_epoch
        assert same(part.vae.state_dict(), whole.vae.state_dict())
        assert same(part.kept_weights(), whole.kept_weights())
        assert same(part.first_weights, whole.first_weights)
    return whole


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint.safetensors"


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_going_on_after_every_epoch_changes_no_bit(family: str, optimizer: str, file: Path) -> None:
    assert_equal_to_uninterrupted(
        file, family=family, optimizer=optimizer, weight_decay=1e-3, epochs=3
    )


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop"])
def test_going_on_without_momentum_changes_no_bit(optimizer: str, file: Path) -> None:
    assert_equal_to_uninterrupted(file, optimizer=optimizer, momentum=0.0)


@pytest.mark.parametrize("likelihood", ["binarized", "laplace", "continuous_bernoulli"])
def test_going_on_changes_no_bit_for_any_likelihood(likelihood: str, file: Path) -> None:
    assert_equal_to_uninterrupted(file, likelihood=likelihood)


def test_going_on_does_not_start_at_the_mean_image_again(file: Path) -> None:
    assert_equal_to_uninterrupted(file, centered=True, averaging=9)


def test_going_on_keeps_the_running_variance(file: Path) -> None:
    assert_equal_to_uninterrupted(file, likelihood="gaussian", sigma="optimal", family="conv_pool")


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_going_on_keeps_the_schedule(schedule: str, file: Path) -> None:
    assert_equal_to_uninterrupted(file, schedule=schedule, lr_warmup=0.2)


@pytest.mark.parametrize("warmup", [{"kl_warmup": 0.5}, {"kl_warmup_epochs": 3}], ids=str)
def test_going_on_keeps_the_kl_warm_up(warmup: dict[str, float], file: Path) -> None:
    whole = assert_equal_to_uninterrupted(file, epochs=5, patience=1, **warmup)
    assert whole.kept_epoch >= 3


def test_going_on_keeps_patience_and_best_weights(file: Path) -> None:
    """A rate that makes the NELBO jump, so that the best epoch is not the last."""
    changes = {"optimizer": "adam", "lr": 0.05, "patience": 3, "min_delta": 0.01}
    whole = assert_equal_to_uninterrupted(file, epochs=30, **changes)
    assert whole.kept_epoch == len(whole.records) - 3 < 27


def test_going_on_keeps_the_plateau(file: Path) -> None:
    changes = {"lr": 0.05, "schedule": "plateau", "plateau_patience": 1}
    whole = assert_equal_to_uninterrupted(file, epochs=15, **changes)
    assert whole.course.plateau.factor < 0.5


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizer_state_has_the_strides_of_its_weights(optimizer: str, file: Path) -> None:
    """A fused optimizer walks through the memory of both; weights of convolutions are not plain."""
    saved = training(family="conv_stride", optimizer=optimizer)
    loaded = training(family="conv_stride", optimizer=optimizer)
    saved.run_epoch()
    save_training(file, saved)
    load_training(file, loaded)
    strided = 0
    for moments in loaded.optimizer.state.values():
        for parameter, value in zip(loaded.optimizer.parameters, moments, strict=True):
            if value.shape == parameter.shape:
                assert value.stride() == parameter.stride()
                strided += not value.is_contiguous()
    assert strided > 0


def test_the_best_weights_are_in_the_file_only_if_they_are_not_the_current_ones(
    file: Path,
) -> None:
    jumping = training(lr=0.05, epochs=30)
    seen = set()
    while not jumping.finished:
        jumping.run_epoch()
        save_training(file, jumping)
        current = jumping.course.best_epoch == len(jumping.records)
        with safe_open(file, framework="pt") as content:
            names = content.keys()
        assert any(name.startswith("best.") for name in names) != current
        seen.add(current)
    assert seen == {True, False}


def test_an_epoch_that_is_left_goes_on_in_the_same_process_too() -> None:
    settings = {"likelihood": "binarized", "averaging": 9, "epochs": 3}
    whole, left, asked = run(training(**settings)), training(**settings), []

    def now_and_then() -> bool:
        asked.append(left.taken)
        return len(asked) % 3 == 0

    calls = 0
    while not left.finished:
        calls += 1
        left.run_epoch(now_and_then)
    assert calls > 3
    assert left.records == whole.records
    assert same(left.kept_weights(), whole.kept_weights())


def test_files_hold_numbers_and_their_names_alone(file: Path) -> None:
    """The safetensors format: length of the header, header in JSON, tensors without a gap."""
    saved = training(family="conv_pool")
    saved.run_epoch()
    save_training(file, saved)
    save_weights(file.with_name("weights.safetensors"), saved.vae.state_dict())
    for path in file.parent.iterdir():
        content = path.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:start])
        header.pop("__metadata__", None)
        spans = sorted(entry["data_offsets"] for entry in header.values())
        assert spans[0][0] == 0
        assert all(before[1] == after[0] for before, after in pairwise(spans))
        assert start + spans[-1][1] == len(content)


def test_a_write_that_fails_leaves_the_file_before_it_and_no_rubbish(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = training()
    saved.run_epoch()
    save_training(file, saved)
    before = file.read_bytes()

    def half(path: Path, _: bytes) -> None:
        with path.open("wb") as torn:
            torn.write(before[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    saved.run_epoch()
    with pytest.raises(OSError, match="No space"):
        save_training(file, saved)
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert file.read_bytes() == before


def test_a_half_written_file_of_a_killed_process_is_not_taken_for_a_checkpoint(file: Path) -> None:
    saved, loaded = training(), training()
    saved.run_epoch()
    save_training(file, saved)
    torn = file.with_name(f".{file.name}.x1y2z3.safetensors")  # as `atomic_path` names them
    torn.write_bytes(file.read_bytes()[:1000])
    load_training(file, loaded)
    assert loaded.records == saved.records


def test_a_torn_file_is_an_error_before_anything_is_changed(file: Path) -> None:
    saved, loaded = training(), training()
    saved.run_epoch()
    save_training(file, saved)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(Unreadable, match=str(file)):
        load_training(file, loaded)
    assert loaded.records == []
    assert same(loaded.vae.state_dict(), training().vae.state_dict())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_is_rebuilt_from_its_weights_and_the_record_beside_them(
    family: str, tmp_path: Path
) -> None:
    trained = run(training(family=family, likelihood="gaussian", sigma="optimal", epochs=2))
    weights, record = tmp_path / "model.safetensors", tmp_path / "config.json"
    save_weights(weights, trained.kept_weights())
    changes = config(family=family, likelihood="gaussian", sigma="optimal")
    write_json(record, {"shape": [1, 8, 8], **changes})
    rebuilt = load_model(weights, record)
    assert not rebuilt.training
    assert same(rebuilt.state_dict(), trained.kept_weights())
    x = digits()[1][:5] / 255
    with torch.inference_mode():
        expected = trained.vae.eval().decode(trained.vae.encode(x)[0])
        torch.testing.assert_close(rebuilt.decode(rebuilt.encode(x)[0]), expected)


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    weights, record = tmp_path / "w.safetensors", tmp_path / "c.json"
    save_weights(weights, training().vae.state_dict())
    write_json(record, {"shape": [1, 8, 8], **config()})
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(UserError, match=rf"^{weights} is damaged \(.*\): delete it and run"):
        load_model(weights, record)


def test_a_record_of_an_earlier_version_is_told_apart(tmp_path: Path) -> None:
    """It has no value for what came later, and none is assumed."""
    save_weights(tmp_path / "w.safetensors", training().vae.state_dict())
    old = {name: value for name, value in config().items() if name != "skip"}
    write_json(tmp_path / "c.json", {"shape": [1, 8, 8], **old})
    with pytest.raises(UserError, match=r"earlier version, without 'skip': run retrain again$"):
        load_model(tmp_path / "w.safetensors", tmp_path / "c.json")


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", training().vae.state_dict())
    write_json(tmp_path / "c.json", {"shape": [1, 8, 8], **config(hidden=[33])})
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_model(tmp_path / "w.safetensors", tmp_path / "c.json")
