"""What a model is counted to have, and what an epoch of it is said to cost."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from trainings import setting_of

from pipeline.settings.space import parse_space
from pipeline.study.search.constraints import within
from pipeline.vae.cost import count_size, epoch_cost, memory_bytes, model_size
from pipeline.vae.model import build

GREY, COLOUR = (1, 8, 8), (3, 9, 7)


def test_an_mlp_is_counted_by_hand() -> None:
    size = model_size(setting_of(hidden=[32], latent_dim=3).architecture, GREY)
    assert size.multiply_adds == 64 * 32 + 2 * 32 * 3 + 3 * 32 + 32 * 64
    assert (size.convolved, size.in_maps) == (0, 64)  # the image that comes out
    assert size.weights == 64 * 32 + 32 + 2 * (32 * 3 + 3) + 3 * 32 + 32 + 32 * 64 + 64


def test_a_convolution_is_counted_by_hand() -> None:
    size = model_size(setting_of(family="conv_stride", filters=4, dense_units=8).architecture, GREY)
    encoder = 4 * 9 * 16 + 4 * 8 * 9 * 4  # to 4 maps of 4×4 and 8 of 2×2
    decoder = 8 * 8 * 9 * 4 + 8 * 4 * 9 * 16 + 4 * 9 * 64  # a transposed one by its inputs
    assert size.convolved == encoder + decoder


@pytest.mark.parametrize("family", ["mlp", "conv_stride", "conv_pool", "residual"])
@pytest.mark.parametrize("shape", [GREY, COLOUR])
def test_weights_are_those_of_the_model(family: str, shape: tuple[int, int, int]) -> None:
    architecture = setting_of(family=family, likelihood="discretized_logistic").architecture
    real = sum(weight.numel() for weight in build(shape, architecture, 0).parameters())
    assert model_size(architecture, shape).weights == real


@pytest.mark.parametrize("hidden", [[32], [4096, 4096]])  # built whole, and without content
@pytest.mark.parametrize("family", ["mlp", "conv_stride", "conv_pool", "residual"])
def test_operations_are_those_of_torch_s_counter(family: str, hidden: list[int]) -> None:
    architecture = setting_of(family=family, hidden=hidden).architecture
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        vae = build(COLOUR, architecture, 0).eval()
        vae.decode(vae.encode(torch.empty(1, *COLOUR))[0])
    assert 2 * count_size(architecture, COLOUR).multiply_adds == counter.get_total_flops()


def test_counting_leaves_no_trace_in_random_numbers() -> None:
    torch.manual_seed(3)
    first = torch.rand(3)
    torch.manual_seed(3)
    model_size(setting_of(hidden=[17]).architecture, GREY)
    assert torch.equal(torch.rand(3), first)


def test_an_epoch_costs_more_with_more_of_anything() -> None:
    cost = epoch_cost(setting_of(), GREY, 1000)
    assert cost == epoch_cost(setting_of(lr=0.5), GREY, 1000)
    assert type(cost) is int
    larger: list[dict[str, Any]] = [
        {"hidden": [64]}, {"batch_size": 32}, {"latent_dim": 9}, {"family": "conv_pool"}
    ]  # fmt: skip
    assert all(epoch_cost(setting_of(**change), GREY, 1000) > cost for change in larger)
    assert epoch_cost(setting_of(), GREY, 2000) == pytest.approx(2 * cost, rel=0.1)


@pytest.mark.parametrize(
    ("limit", "value"),
    [("weights", "weights"), ("multiply_adds", "multiply_adds"), ("memory_mb", "memory")],
)
def test_constraints_are_kept_up_to_their_very_value(limit: str, value: str) -> None:
    setting = setting_of(hidden=[900])
    size = model_size(setting.architecture, GREY)
    memory = memory_bytes(setting, GREY) / 1e6
    most = {"weights": size.weights, "multiply_adds": size.multiply_adds}.get(value, memory)
    chosen = {"hidden": [900]}
    for bound, kept in ((math.ceil(most), True), (math.ceil(most) - 1, False)):
        fixed = {"latent_dim": 3, "batch_size": 64}
        raw = {
            "data": {"name": "digits"},
            "parameters": {**fixed, "hidden": {"choices": [[900], [8]]}},
            "search": {"constraints": {limit: bound}},
        }
        assert within(parse_space("x", raw, "x"), GREY)(chosen) is kept
