"""The averaged weights of a training: closed forms, what is measured and kept, and their gain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from trainings import digits, run, same, setting_of, training

from pipeline.vae.average import STRIDE, WeightAverage
from pipeline.vae.checkpoint import load_training, save_training
from pipeline.vae.measure import elbo
from pipeline.vae.model import build
from pipeline.vae.training import VALIDATION_SEED


@pytest.mark.parametrize(
    ("exponent", "weight"),
    [(0, lambda t: 1), (1, lambda t: t), (2, lambda t: t * (t + 1))],  # exact for integers
)
def test_closed_forms(exponent: float, weight: Callable[[int], int]) -> None:
    vae = build((1, 8, 8), setting_of().architecture, 0)
    average = WeightAverage(vae, exponent)
    sums = [torch.zeros_like(p, dtype=torch.float64) for p in vae.parameters()]
    for t in range(1, 21):
        for parameter, total in zip(vae.parameters(), sums, strict=True):
            torch.nn.init.normal_(parameter)
            total += weight(t) * parameter.detach().double()
        average.update(t)
    scale = sum(weight(t) for t in range(1, 21))
    for mean, total in zip(average.vae.parameters(), sums, strict=True):
        torch.testing.assert_close(mean.detach().double(), total / scale, atol=1e-5, rtol=1e-5)


def test_it_is_what_is_measured_and_kept() -> None:
    averaged = run(training(averaging=9.0, restore_best=False))
    nelbo = elbo(averaged.model, digits()[1], VALIDATION_SEED).summary()["nelbo_nats"]
    assert averaged.records[-1]["nelbo_nats"] == nelbo
    assert same(averaged.kept_weights(), averaged.model.state_dict())
    assert not same(averaged.kept_weights(), averaged.vae.state_dict())


def test_it_changes_nothing_of_the_training_itself() -> None:
    plain, averaged = run(training()), run(training(averaging=9.0))
    assert same(averaged.vae.state_dict(), plain.vae.state_dict())


def test_the_last_step_of_an_epoch_is_always_in_it() -> None:
    """An epoch of fewer steps than the stride is not without an average."""
    assert len(digits()[0]) / 64 < STRIDE
    first = training(averaging=9.0, epochs=1)
    first.run_epoch()
    assert same(first.model.state_dict(), first.vae.state_dict())


def test_running_statistics_are_averaged_and_the_likelihoods_are_not() -> None:
    averaged = run(
        training(averaging=1.0, family="conv_pool", likelihood="gaussian", sigma="optimal")
    )
    mine, theirs = averaged.model.state_dict(), averaged.vae.state_dict()
    for name, value in theirs.items():
        if name.startswith("likelihood.") or name.endswith("num_batches_tracked"):
            assert torch.equal(mine[name], value)
        else:
            assert not torch.equal(mine[name], value), name


@pytest.mark.parametrize("patience", [None, 1])
def test_a_killed_training_goes_on_bit_for_bit(tmp_path: Path, patience: int | None) -> None:
    settings = {"averaging": 4.0, "family": "conv_pool", "patience": patience}
    whole, half = run(training(**settings)), training(**settings)
    half.run_epoch()
    half.run_epoch()
    save_training(tmp_path / "state.safetensors", half)
    resumed = training(**settings)
    load_training(tmp_path / "state.safetensors", resumed)
    assert same(run(resumed).kept_weights(), whole.kept_weights())
    assert resumed.records == whole.records


def test_it_is_better_than_the_last_step_of_a_fast_training() -> None:
    settings = {"lr": 2e-2, "batch_size": 8, "epochs": 20, "hidden": [64], "latent_dim": 8}
    plain, averaged = run(training(**settings)), run(training(averaging=9.0, **settings))
    assert averaged.records[-1]["nelbo_nats"] < plain.records[-1]["nelbo_nats"] - 0.2
