"""Optimizers, step for step beside torch.optim's classes."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from trainings import setting_of

from pipeline.vae.optimizer import Optimizer

RATES = [1e-2, 5e-3, 2e-2, 0.0, 1e-3]
CLASSES: dict[str, Any] = {
    "adam": lambda p, decay, _: torch.optim.Adam(p, weight_decay=decay, fused=True),
    "adamw": lambda p, decay, _: torch.optim.AdamW(p, weight_decay=decay, fused=True),
    "adamax": lambda p, decay, _: torch.optim.Adamax(p, weight_decay=decay, foreach=True),
    "rmsprop": lambda p, decay, momentum: torch.optim.RMSprop(
        p, weight_decay=decay, momentum=momentum, foreach=True
    ),
    "sgd": lambda p, decay, momentum: torch.optim.SGD(
        p, weight_decay=decay, momentum=momentum, fused=True
    ),
}


def weights() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(5, 3, generator=generator)
    kernel = torch.randn(4, 2, 3, 3, generator=generator)
    kernel = kernel.contiguous(memory_format=torch.channels_last)
    return [matrix.requires_grad_(), kernel.requires_grad_()]


def set_gradients(parameters: list[Tensor], step: int) -> None:
    generator = torch.Generator().manual_seed(step + 1)
    for parameter in parameters:
        gradient = torch.randn(parameter.shape, generator=generator)
        parameter.grad = torch.empty_like(parameter).copy_(gradient)


@pytest.mark.parametrize("decay", [0.0, 1e-2])
@pytest.mark.parametrize("momentum", [0.0, 0.8])
@pytest.mark.parametrize("name", CLASSES)
def test_every_step_is_torchs_to_the_last_bit(name: str, momentum: float, decay: float) -> None:
    ours, theirs = weights(), weights()
    setting = setting_of(optimizer=name, weight_decay=decay, momentum=momentum)
    optimizer, reference = Optimizer(ours, setting), CLASSES[name](theirs, decay, momentum)
    for step, lr in enumerate(RATES):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        optimizer.step(lr)
        reference.param_groups[0]["lr"] = lr
        reference.step()
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert all(parameter.grad is None for parameter in ours)


@pytest.mark.parametrize("largest", [0.5, 1e6])
def test_a_gradient_is_scaled_down_to_its_largest_norm(largest: float) -> None:
    ours = weights()
    before = torch.cat([parameter.detach().flatten().clone() for parameter in ours])
    setting = setting_of(optimizer="sgd", momentum=0, max_grad_norm=largest)
    set_gradients(ours, 0)
    gradient = torch.cat([p.grad.flatten().clone() for p in ours if p.grad is not None])
    Optimizer(ours, setting).step(1.0)
    moved = before - torch.cat([parameter.detach().flatten() for parameter in ours])
    wanted = gradient * min(1.0, largest / gradient.norm())
    torch.testing.assert_close(moved, wanted, atol=1e-5, rtol=1e-5)


def test_a_gradient_within_the_limit_is_left_as_it_is() -> None:
    ours, theirs = weights(), weights()
    for parameters, largest in ((ours, 1e6), (theirs, None)):
        setting = setting_of(max_grad_norm=largest)
        set_gradients(parameters, 0)
        Optimizer(parameters, setting).step(1e-2)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_training_and_its_cost_do_not_import_the_compiler() -> None:
    """It would cost every process of a sweep up to 4 core-seconds."""
    code = (
        "import sys, trainings, pipeline.vae.cost\n"
        "assert pipeline.vae.cost.epoch_cost(trainings.setting_of(), (1, 8, 8), 100)\n"
        "for name in ('adam', 'adamax', 'rmsprop', 'sgd'):\n"
        "    trainings.training(optimizer=name, epochs=1, max_grad_norm=1.0).run_epoch()\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd="tests/support", capture_output=True)
    assert done.returncode == 0, done.stderr
