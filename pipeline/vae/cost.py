"""What an epoch of a training costs, by a formula: never a measured time.

The virtual clock of a search (`pipeline.study.search.clock`) counts in these units, so they must be
the same everywhere. They are multiply-adds of a matrix product on one core of a processor: those of
the model itself, and what else takes the time of so many, as it was measured for `bench.cost`.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from pipeline.vae.families.layers import Shape
from pipeline.vae.model import build
from pipeline.vae.setting import Architecture, Setting

CONVOLVED = 0.16  # a multiply-add of a convolution: its layouts suit a processor's caches
FEATURE = 18.0  # each number that a dense layer or what follows it gives: memory, and its gradient
IN_MAP = 85.0  # the same in feature maps
STEP = 1.1e7  # a step, however small the model
WEIGHT = 48.0  # of the optimizer's rule, for each weight and step


COPIES = 6  # of the weights: gradients, two moments, the best and the first epoch's, themselves
FILLED = 2**22  # weights of a model that is built to be counted: see `count_size`


class Size(NamedTuple):
    """Of a model: its weights, and of a forward pass for each image the multiply-adds of dense
    layers and convolutions, and the numbers that layers give, in maps and out of them."""

    weights: int
    dense: int
    convolved: int
    features: int
    in_maps: int

    @property
    def multiply_adds(self) -> int:
        """Of a forward pass, for each image."""
        return self.dense + self.convolved


_sizes: dict[tuple[Any, ...], Size] = {}


def epoch_cost(setting: Setting, shape: Shape, images: int) -> int:
    """Of one epoch over so many training images, in thousands of multiply-adds."""
    size = model_size(setting.architecture, shape)
    steps = math.ceil(images / setting.batch_size)
    image = size.dense + CONVOLVED * size.convolved
    image += FEATURE * size.features + IN_MAP * size.in_maps
    return math.ceil((images * image + steps * (WEIGHT * size.weights + STEP)) / 1000)


def memory_bytes(setting: Setting, shape: Shape) -> int:
    """Of a training beside its images and the libraries: weights and a batch, in fp32."""
    size = model_size(setting.architecture, shape)
    outputs = size.features + size.in_maps  # most of which the backward pass reads again
    return 4 * (COPIES * size.weights + 2 * setting.batch_size * outputs)


def model_size(architecture: Architecture, shape: Shape) -> Size:
    """Counted once an architecture.

    One that cannot be built counts nothing: its trial says why.
    """
    family = architecture.family
    key = (type(family), repr(vars(family)), repr(architecture), shape)
    if key not in _sizes:
        try:
            _sizes[key] = count_size(architecture, shape)
        except Exception:
            _sizes[key] = Size(0, 0, 0, 0, 0)
    return _sizes[key]


def count_size(architecture: Architecture, shape: Shape, most: int = FILLED) -> Size:
    """The same of a model that can be built; raises what its family raises.

    One of more than `most` weights has no content (torch's meta device), for which torch imports
    its compiler, at a core-second in every process.
    """
    given = {True: 0, False: 0}  # in maps, out of them

    def count(_: nn.Module, __: object, output: object) -> None:
        if isinstance(output, Tensor):
            given[output.dim() > 2] += output.numel()

    with torch.device("meta"):
        vae = build(shape, architecture, 0).eval()
    weights = sum(weight.numel() for weight in vae.parameters())
    device = torch.device("cpu" if weights <= most else "meta")
    if weights <= most:
        vae = build(shape, architecture, 0).eval()
    for module in vae.modules():
        if not list(module.children()):
            module.register_forward_hook(count)
    with device, torch.no_grad(), _Operations() as counter:
        mu, _ = vae.encode(torch.zeros(1, *shape))
        vae.decode(mu)
    flops = counter.flops
    convolved = sum(n for operation, n in flops.items() if "conv" in operation) // 2
    dense = flops.total() // 2 - convolved
    return Size(weights, dense, convolved, given[False], given[True])


class _Operations(TorchDispatchMode):
    """Counts by torch's formulas. Its own FlopCounterMode imports the compiler, too."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops: Counter[str] = Counter()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs, operation = kwargs or {}, func.overloadpacket
        if operation not in flop_registry:
            with self:  # of several operations, it may be
                if (given := func.decompose(*args, **kwargs)) is not NotImplemented:
                    return given
        given = func(*args, **kwargs)
        if operation in flop_registry:
            self.flops[str(operation)] += int(
                flop_registry[operation](*args, **kwargs, out_val=given)
            )
        return given
