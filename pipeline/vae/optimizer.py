"""Optimizers: torch's update rules, fused where it has a fused one, on plain lists of tensors.

torch.optim's classes import torch's compiler when the first one is made: 4 core-seconds of every
worker. The rules themselves are public functions without that price.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.adam import adam
from torch.optim.adamax import adamax
from torch.optim.rmsprop import rmsprop
from torch.optim.sgd import sgd

from pipeline.vae.setting import Setting

Tensors = list[Tensor]
Rate = float | Tensor  # a tensor () on the device, for fused rules alone


@dataclass(frozen=True)
class Rule:
    """One of torch's update rules and what its class would call it with."""

    update: Callable[..., None]
    state: tuple[str | None, ...]  # lists it takes after parameters and gradients; None: empty
    reads: tuple[str, ...]  # hyperparameters
    constants: dict[str, Any]  # torch's defaults

    @property
    def fused(self) -> bool:
        return bool(self.constants.get("fused"))


_ADAM = Rule(
    adam,
    ("exp_avg", "exp_avg_sq", None, "step"),
    ("weight_decay",),
    {
        "fused": True,
        "beta1": 0.9,
        "beta2": 0.999,
        "eps": 1e-8,
        "decoupled_weight_decay": False,
        "amsgrad": False,
        "maximize": False,
    },
)
_RULES = {
    "adam": _ADAM,
    "adamw": replace(_ADAM, constants=_ADAM.constants | {"decoupled_weight_decay": True}),
    "adamax": Rule(
        adamax,
        ("exp_avg", "exp_inf", "step"),
        ("weight_decay",),
        {"foreach": True, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8},
    ),
    "rmsprop": Rule(
        rmsprop,
        ("square_avg", None, "momentum_buffer", "step"),
        ("weight_decay", "momentum"),
        {"foreach": True, "alpha": 0.99, "eps": 1e-8, "centered": False},
    ),
    "sgd": Rule(
        sgd,
        ("momentum_buffer",),
        ("weight_decay", "momentum"),
        {"fused": True, "dampening": 0.0, "nesterov": False, "maximize": False},
    ),
}


class Optimizer:
    """The optimizer of a setting: adam, adamw, adamax, rmsprop or sgd.

    Reads `optimizer`, `weight_decay`, `max_grad_norm` and `momentum` (sgd, rmsprop); everything
    else has torch's defaults. `state` maps the name of a moment to one tensor a parameter, in the
    parameters' order.
    """

    def __init__(self, parameters: Iterable[Tensor], setting: Setting) -> None:
        """Raises KeyError for an unknown optimizer."""
        self.parameters = list(parameters)
        self._max_norm = setting.max_grad_norm
        self._rule = _RULES[setting.optimizer]
        self._constants = {name: getattr(setting, name) for name in self._rule.reads}
        self._constants |= self._rule.constants
        self.fused = self._rule.fused  # only such a rule takes a rate that is on the device
        moments = [name for name in self._rule.state if name and name != "step"]
        self.state: dict[str, Tensors] = {
            name: [torch.zeros_like(p) for p in self.parameters] for name in moments
        }
        # a fused rule counts its steps where the weights are; the others read the count every step
        self.state["step"] = [
            torch.zeros((), device=p.device if self.fused else "cpu") for p in self.parameters
        ]

    @torch.no_grad()
    def step(self, lr: Rate) -> None:
        """Moves every parameter by its gradient, clipped if so set, and forgets it."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if self._max_norm is not None:
            self._clip(gradients, self._max_norm)
        state = [self.state[name] if name else [] for name in self._rule.state]
        self._rule.update(self.parameters, gradients, *state, lr=lr, **self._constants)
        for parameter in self.parameters:
            parameter.grad = None

    def _clip(self, gradients: Tensors, max_norm: float) -> None:
        norm = get_total_norm(gradients, foreach=True)
        if not _at_hand(norm) or norm > max_norm:  # seldom: it is a pass over all gradients
            clip_grads_with_norm_(self.parameters, max_norm, norm, foreach=True)


def _at_hand(value: Tensor) -> bool:
    """Whether to read it is no wait for a device."""
    return value.device.type == "cpu"
