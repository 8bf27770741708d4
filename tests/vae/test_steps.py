"""Steps as CUDA graphs, proved without a GPU: the same training, and nothing that waits for one."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from trainings import run, same, setting_of, training

from pipeline.vae.checkpoint import load_training, save_training
from pipeline.vae.model import build
from pipeline.vae.optimizer import Optimizer
from pipeline.vae.steps import WARM_UPS, Capture, GraphedSteps, Step, Work
from pipeline.vae.training import Training

# Rates and weights that float32 holds exactly, as a graph reads them in float32.
EXACT: dict[str, Any] = {"lr": 2**-7, "beta": 0.5}
PLAIN = ["bernoulli", "binarized", "gaussian", "laplace", "continuous_bernoulli",
         "discretized_logistic"]  # fmt: skip


def replayed(step: Work, advance: Work, _: torch.Generator) -> Work:
    """Does what a graph does: warm-ups, then the same work at every replay."""
    for _ in range(WARM_UPS):
        step()

    def replay() -> None:
        step()
        advance()

    return replay


def graphed(plain: Training, capture: Capture = replayed) -> Training:
    """The training with the steps of a GPU."""
    plain._steps = plain._graphed_steps(capture)
    return plain


@pytest.mark.parametrize("batch_size", [64, 115, 500])  # a smaller last batch, none, one alone
@pytest.mark.parametrize(
    "setting",
    [
        {"optimizer": "adam", "schedule": "plateau", "plateau_patience": 1, "min_delta": 1e3},
        {"optimizer": "adamw", "weight_decay": 0.01, "family": "conv_stride"},
        {"optimizer": "sgd", "momentum": 0.5, "lr": 2**-12, "family": "conv_pool"},
        {"likelihood": "binarized", "precision": "bf16", "max_grad_norm": 1.0},
        {"likelihood": "gaussian", "sigma": "optimal"},
    ],
    ids=lambda setting: next(iter(setting.values())),
)
def test_the_same_training_to_the_last_bit(setting: dict[str, Any], batch_size: int) -> None:
    settings = {**EXACT, **setting, "batch_size": batch_size}
    plain, replays = run(training(**settings)), run(graphed(training(**settings)))
    assert replays.records == plain.records
    assert same(replays.vae.state_dict(), plain.vae.state_dict())


class Reads(TorchDispatchMode):
    """Notes the tensors that operations read and that no operation under it has made."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[weakref.ref[Tensor]] = []
        self._made: list[Tensor] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = {id(tensor) for tensor in self._made}
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        self.read += [weakref.ref(leaf) for leaf in leaves if id(leaf) not in made]
        out = func(*args, **(kwargs or {}))
        self._made += [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        return out


@pytest.mark.parametrize("family", ["mlp", "conv_pool"])
def test_what_a_graph_reads_lives_as_long_as_it_may_be_replayed(family: str) -> None:
    """A CUDA graph holds addresses and no tensors, so this capture keeps nothing, either."""
    reads: list[weakref.ref[Tensor]] = []

    def forgotten(step: Work, advance: Work, _: torch.Generator) -> Work:
        with Reads() as noted:
            step()
            advance()
        reads.extend(noted.read)
        return lambda: None

    held = graphed(training(family=family, max_grad_norm=1.0), forgotten)
    held._steps.begin(0, [0.1] * 4, [1.0] * 4)
    gc.collect()
    assert len(reads) > 50
    assert all(read() is not None for read in reads)


def test_a_schedule_is_followed_as_far_as_float32_goes() -> None:
    settings = {"schedule": "cosine", "lr_warmup": 0.3, "kl_warmup": 0.2, "lr": 3e-3}
    plain, replays = run(training(**settings)), run(graphed(training(**settings)))
    for before, after in zip(plain.records, replays.records, strict=True):
        assert after["lr"] == before["lr"]
        assert after["nelbo_nats"] == pytest.approx(before["nelbo_nats"], abs=1e-4)


def test_a_killed_training_goes_on_bit_for_bit(tmp_path: Path) -> None:
    settings = {**EXACT, "likelihood": "binarized"}
    whole, half = run(graphed(training(**settings))), graphed(training(**settings))
    for at in ((1, 0), (1, 1), (1, 3)):  # epochs, and steps of the next one
        half.run_epoch(lambda: True)
        while (len(half.records), half.taken) != at:
            half.run_epoch(lambda: True)
        save_training(tmp_path / "state.safetensors", half)
        resumed = graphed(training(**settings))
        load_training(tmp_path / "state.safetensors", resumed)
        assert same(run(resumed).vae.state_dict(), whole.vae.state_dict())
        assert resumed.records == whole.records


SETTINGS = [
    *({"family": f, "likelihood": p} for f in ("mlp", "conv_stride", "conv_pool") for p in PLAIN),
    {"likelihood": "gaussian", "sigma": "optimal"},
    {"family": "mlp", "skip": True},
    *({"optimizer": o, "precision": p} for o in ("adamw", "sgd") for p in ("fp32", "bf16")),
]


@pytest.mark.parametrize(
    "changes", SETTINGS, ids=lambda changes: "-".join(map(str, changes.values()))
)
def test_no_step_reads_a_value(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake tensors have shapes and no values: reading one raises, as it would in a capture."""
    monkeypatch.setattr("pipeline.vae.optimizer._at_hand", lambda value: False)  # as on a GPU
    setting = setting_of(**changes, max_grad_norm=1.0)
    vae = build((1, 8, 8), setting.architecture, 0)
    with FakeTensorMode():
        for module in vae.modules():
            for name, parameter in module._parameters.items():
                module._parameters[name] = nn.Parameter(torch.empty(parameter.shape))
            for name, buffer in module._buffers.items():
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
        images = torch.empty(100, 1, 8, 8, dtype=torch.uint8)
        step = Step(vae, Optimizer(vae.parameters(), setting), images, setting.precision == "bf16")
        steps = GraphedSteps(step, 100, 16, [], lambda step, *_: step)
        steps.begin(0, [0.1] * 7, [1.0] * 7)
        for number in range(7):
            steps.take(number)
        with pytest.raises(DataDependentOutputException):
            steps._index.item()
