"""Optimizers: torch's update rules, fused where it has a fused one, on plain lists of tensors.

torch.optim's classes import torch's compiler when the first one is made: 4 core-seconds of every
worker. The rules themselves are public functions without that price.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.adam import adam
from torch.optim.adamax import adamax
from torch.optim.rmsprop import rmsprop
from torch.optim.sgd import sgd

Tensors = list[Tensor]
Rate = float | Tensor  # a tensor () on the device, for fused rules alone
Update = Callable[[Tensors, Tensors, dict[str, Tensors], Rate], None]


class Optimizer:
    """The optimizer of a configuration: adam, adamw, adamax, rmsprop or sgd.

    Reads `optimizer`, `weight_decay`, `max_grad_norm` and `momentum` (sgd, rmsprop); everything
    else has torch's defaults. `state` maps the name of a moment to one tensor a parameter, in the
    parameters' order.
    """

    def __init__(self, parameters: Iterable[Tensor], config: dict[str, Any]) -> None:
        """Raises KeyError for an unknown optimizer."""
        self.parameters = list(parameters)
        self._max_norm: float | None = config["max_grad_norm"]
        moments, fused, rule = _RULES[config["optimizer"]]
        self.fused = fused  # only such a rule takes a rate that is on the device
        self.state: dict[str, Tensors] = {
            name: [torch.zeros_like(p) for p in self.parameters] for name in moments
        }
        # a fused rule counts its steps where the weights are; the others read the count every step
        self.state["step"] = [
            torch.zeros((), device=p.device if fused else "cpu") for p in self.parameters
        ]
        self._update = rule(config)

    @torch.no_grad()
    def step(self, lr: Rate) -> None:
        """Moves every parameter by its gradient, clipped if so configured, and forgets it."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if self._max_norm is not None:
            self._clip(gradients, self._max_norm)
        self._update(self.parameters, gradients, self.state, lr)
        for parameter in self.parameters:
            parameter.grad = None

    def _clip(self, gradients: Tensors, max_norm: float) -> None:
        norm = get_total_norm(gradients, foreach=True)
        if not _at_hand(norm) or norm > max_norm:  # seldom: it is a pass over all gradients
            clip_grads_with_norm_(self.parameters, max_norm, norm, foreach=True)


def _at_hand(value: Tensor) -> bool:
    """Whether to read it is no wait for a device."""
    return value.device.type == "cpu"


def _adam(config: dict[str, Any], *, decoupled: bool) -> Update:
    def update(
        parameters: Tensors, gradients: Tensors, state: dict[str, Tensors], lr: Rate
    ) -> None:
        adam(
            parameters,
            gradients,
            state["exp_avg"],
            state["exp_avg_sq"],
            [],
            state["step"],
            fused=True,
            decoupled_weight_decay=decoupled,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=lr,
            weight_decay=config["weight_decay"],
            eps=1e-8,
            maximize=False,
        )

    return update


def _adamax(config: dict[str, Any]) -> Update:
    def update(
        parameters: Tensors, gradients: Tensors, state: dict[str, Tensors], lr: Rate
    ) -> None:
        adamax(
            parameters,
            gradients,
            state["exp_avg"],
            state["exp_inf"],
            state["step"],
            foreach=True,
            eps=1e-8,
            beta1=0.9,
            beta2=0.999,
            lr=lr,
            weight_decay=config["weight_decay"],
        )

    return update


def _rmsprop(config: dict[str, Any]) -> Update:
    def update(
        parameters: Tensors, gradients: Tensors, state: dict[str, Tensors], lr: Rate
    ) -> None:
        rmsprop(
            parameters,
            gradients,
            state["square_avg"],
            [],
            state["momentum_buffer"],
            state["step"],
            foreach=True,
            lr=lr,
            alpha=0.99,
            eps=1e-8,
            weight_decay=config["weight_decay"],
            momentum=config["momentum"],
            centered=False,
        )

    return update


def _sgd(config: dict[str, Any]) -> Update:
    def update(
        parameters: Tensors, gradients: Tensors, state: dict[str, Tensors], lr: Rate
    ) -> None:
        sgd(
            parameters,
            gradients,
            list(state["momentum_buffer"]),
            fused=True,
            weight_decay=config["weight_decay"],
            momentum=config["momentum"],
            lr=lr,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )

    return update


# per optimizer: its moments, whether its rule is fused, and the rule
_RULES: dict[str, tuple[tuple[str, ...], bool, Callable[[dict[str, Any]], Update]]] = {
    "adam": (("exp_avg", "exp_avg_sq"), True, lambda c: _adam(c, decoupled=False)),
    "adamw": (("exp_avg", "exp_avg_sq"), True, lambda c: _adam(c, decoupled=True)),
    "adamax": (("exp_avg", "exp_inf"), False, _adamax),
    "rmsprop": (("square_avg", "momentum_buffer"), False, _rmsprop),
    "sgd": (("momentum_buffer",), True, _sgd),
}
