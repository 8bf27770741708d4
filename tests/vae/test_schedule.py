"""Learning rates and KL weights against torch's schedulers, and against their definitions."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler
from trainings import setting_of

from pipeline.vae.schedule import Plateau, kl_warmup_end, kl_weight, lr_factor

TOTAL = 200


def optimizer(lr: float = 1.0) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)


def rates_of(
    optimizer: torch.optim.Optimizer, scheduler: lr_scheduler.LRScheduler, steps: int
) -> list[float]:
    """The rate that torch uses in each step."""
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def ours(total: int = TOTAL, **changes: Any) -> list[float]:
    return [lr_factor(setting_of(**changes), step, total) for step in range(total)]


def test_constant_is_constant() -> None:
    assert ours(schedule="constant") == [1.0] * TOTAL


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_warm_up_is_torchs_linear_one(schedule: str) -> None:
    steps = TOTAL // 10
    sgd = optimizer()
    linear = lr_scheduler.LinearLR(sgd, start_factor=1 / (steps + 1), total_iters=steps)
    factors = ours(schedule=schedule, lr_warmup=0.1)
    assert factors[: steps + 1] == pytest.approx(rates_of(sgd, linear, steps + 1))


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_cosine_is_torchs_annealing_of_the_steps_after_the_warm_up(share: float) -> None:
    left = TOTAL - round(share * TOTAL)
    sgd = optimizer()
    expected = rates_of(sgd, lr_scheduler.CosineAnnealingLR(sgd, T_max=left), left)
    factors = ours(schedule="cosine", lr_warmup=share)[TOTAL - left :]
    assert factors == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("total", [100, 1000])
def test_one_cycle_is_torchs_up_to_the_rounding_of_its_peak_to_a_step(total: int) -> None:
    sgd = optimizer()
    expected = rates_of(sgd, lr_scheduler.OneCycleLR(sgd, max_lr=1.0, total_steps=total), total)
    factors = ours(total, schedule="one_cycle")
    assert factors == pytest.approx(expected, abs=4 / total)
    assert factors[0] == pytest.approx(1 / 25)
    assert factors[-1] == pytest.approx(1e-4 / 25)
    assert max(factors) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle", "plateau"])
@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 0.999])
@pytest.mark.parametrize("total", [1, 2, 3, 7])
def test_factors_of_very_short_trainings_stay_above_0_and_below_1(
    schedule: str, share: float, total: int
) -> None:
    assert all(0 < factor <= 1 for factor in ours(total, schedule=schedule, lr_warmup=share))


@pytest.mark.parametrize("patience", [1, 2, 4])
@pytest.mark.parametrize("floor", [0.0, 2e-4])
def test_plateau_is_torchs_one_epoch_earlier(patience: int, floor: float) -> None:
    setting = setting_of(
        lr=1e-2, plateau_patience=patience, plateau_floor=floor, plateau_factor=0.5, min_delta=0.1
    )
    sgd = optimizer(lr=1e-2)
    theirs = lr_scheduler.ReduceLROnPlateau(
        sgd,
        factor=0.5,
        patience=patience - 1,
        threshold=0.1,
        threshold_mode="abs",
        min_lr=floor,
        eps=0,
    )
    plateau = Plateau(setting)
    value, rng = 300.0, random.Random(patience)
    for _ in range(80):
        value += rng.choice([-5, -0.02, -0.5, 0, 0.5, 1])  # -0.02 is no improvement
        theirs.step(value)
        plateau.observe(value)
        assert 1e-2 * plateau.factor == pytest.approx(sgd.param_groups[0]["lr"])
    assert plateau.factor < 0.5


def test_plateau_halves_where_a_published_run_with_patience_3_halved() -> None:
    """Best epoch 75 of 81, halved at 41, 56, 64, 68, 78 and 81: patience 3, early stopping 6."""
    bad = {*range(39, 42), *range(54, 57), *range(62, 65), *range(66, 69), *range(76, 82)}
    plateau, halved = Plateau(setting_of(plateau_patience=3, min_delta=1e-4)), []
    for epoch in range(1, 82):
        before = plateau.factor
        plateau.observe(200.0 if epoch in bad else 190.0 - epoch)
        halved += [epoch] if plateau.factor < before else []
    assert halved == [41, 56, 64, 68, 78, 81]


def test_plateau_knows_better_from_worse_below_zero_as_well() -> None:
    """Densities above 1 make negative NELBOs: a relative improvement would point the wrong way."""
    plateau = Plateau(setting_of(plateau_patience=1, min_delta=0.01))
    plateau.observe(-100.0)
    plateau.observe(-99.999)
    assert plateau.factor == 0.5
    plateau.observe(-101.0)
    assert plateau.factor == 0.5


def test_plateau_state_restores_it() -> None:
    first, second = Plateau(setting_of(plateau_patience=2)), Plateau(setting_of(plateau_patience=2))
    for value in (3.0, 3.0, 3.0, 4.0):
        first.observe(value)
    second.restore(first.state())
    for plateau in (first, second):
        plateau.observe(5.0)
    assert first.state() == second.state()
    assert first.factor == 0.25


def test_kl_weight_by_epochs_is_constant_within_an_epoch() -> None:
    setting = setting_of(kl_warmup_epochs=25)
    weights = [kl_weight(setting, step, 7 * 50, 7) for step in range(7 * 50)]
    assert weights == pytest.approx([min(1, (step // 7 + 1) / 25) for step in range(7 * 50)])


def test_kl_weight_by_share_rises_every_step_to_beta() -> None:
    setting = setting_of(kl_warmup=0.1, beta=4.0)
    weights = [kl_weight(setting, step, TOTAL, 20) for step in range(TOTAL)]
    assert weights[:20] == pytest.approx([4 * (step + 1) / 20 for step in range(20)])
    assert weights[20:] == [4.0] * (TOTAL - 20)


def test_kl_weight_without_warm_up_is_beta() -> None:
    assert kl_weight(setting_of(beta=0.25), 0, TOTAL, 20) == 0.25
    assert kl_weight(setting_of(beta=0.0), 0, TOTAL, 20) == 0


@pytest.mark.parametrize("epochs", [1, 5, 30, 100])
@pytest.mark.parametrize(
    "warmup",
    [{}, {"kl_warmup": 1.0}, *({"kl_warmup": share} for share in (0.07, 0.1, 0.29, 0.5, 0.55)),
     *({"kl_warmup_epochs": count} for count in (1, 5, 25, 1000))],
    ids=str,
)  # fmt: skip
def test_kl_warm_up_ends_with_the_last_epoch_that_begins_below_beta(
    warmup: dict[str, float], epochs: int
) -> None:
    setting, steps = setting_of(**warmup), 10_000
    begins_below = [
        epoch
        for epoch in range(1, epochs + 1)
        if kl_weight(setting, (epoch - 1) * steps, epochs * steps, steps) < 1 - 1e-9
    ]
    assert kl_warmup_end(setting, epochs) == max(begins_below, default=0)
