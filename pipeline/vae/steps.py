"""A training's steps, one by one or as CUDA graphs: one launch a step, nothing read in an epoch.

On a GPU a step of a small VAE is some sixty kernels of microseconds; launched one by one they
leave the GPU waiting for Python. What differs from step to step (rows, learning rate, KL weight) is
read on the device by a counter that the graph itself raises: every replay is the next step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from pipeline.vae.measure import binarize, pixels
from pipeline.vae.model import VAE, kl_per_dim, reparameterize
from pipeline.vae.optimizer import Optimizer

WARM_UPS = 3  # what libraries set up at their first calls may not happen while a graph is captured

Work = Callable[[], None]  # launched on the device, not waited for
Capture = Callable[[Work, Work, torch.Generator], Work]


class Step:
    """A step of gradient descent on some rows of an epoch, whose order and noise it draws."""

    def __init__(self, vae: VAE, optimizer: Optimizer, images: Tensor, half: bool):
        """Images are uint8 (n, C, H, W); `half`: in bfloat16 where that is accurate enough."""
        device = images.device
        self._host = torch.Generator()  # so that order and noise are the same on every device
        self.generator = self._host if device.type == "cpu" else torch.Generator(device)
        self._vae, self._optimizer, self._images, self._half = vae, optimizer, images, half
        self._order = torch.empty(len(images), dtype=torch.int64, device=device)
        self._noise = torch.empty(len(images), vae.latent_dim, device=device)

    def draw(self, seed: int) -> None:
        """The order and the noise of an epoch."""
        self.generator.manual_seed(seed)
        self._host.manual_seed(seed)
        self._order.copy_(torch.randperm(len(self._order), generator=self._host))
        self._noise.copy_(torch.randn(self._noise.shape, generator=self._host))

    def __call__(
        self, rows: slice | Tensor, lr: float | Tensor, kl_weight: float | Tensor
    ) -> Tensor:
        """Trains on these rows; the (2,) sums of their recon and KL in nats before the step."""
        vae = self._vae
        x = pixels(self._images.index_select(0, self._order[rows]))  # (batch, C, H, W)
        if vae.likelihood.binarizes:
            x = binarize(x, self.generator)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self._half):
            mu, log_var = vae.encode(x)
            out = vae.decode(reparameterize(mu, log_var, self._noise[rows]))
            recon = vae.likelihood.nll(out, x).sum()
            kl = kl_per_dim(mu, log_var).sum()
        ((recon + kl_weight * kl) / len(x)).backward()
        self._optimizer.step(lr)
        return torch.stack([recon.detach(), kl.detach()])


class Steps(Protocol):
    """The steps of an epoch."""

    sums: Tensor  # (2,) recon and KL in nats of all images so far

    def begin(self, seed: int, lrs: Sequence[float], kl_weights: Sequence[float]) -> None:
        """Draws order and noise of an epoch, whose steps have these rates and weights."""

    def take(self, number: int) -> None:
        """The next step of the epoch, number 0, 1, ..."""

    def state(self) -> dict[str, Tensor]:
        """What an epoch that has begun needs to go on, beside weights and the optimizer's state."""

    def restore(self, number: int, state: dict[str, Tensor]) -> None:
        """Goes on, in an epoch that was begun again, before step `number`."""


class EagerSteps:
    """Steps that Python launches operation by operation."""

    def __init__(self, step: Step, batch_size: int):
        self._step, self._batch_size = step, batch_size
        self._schedule: list[tuple[float, float]] = []
        self.sums = torch.zeros(2, dtype=torch.float64, device=step.generator.device)

    def begin(self, seed: int, lrs: Sequence[float], kl_weights: Sequence[float]) -> None:
        self._step.draw(seed)
        self._schedule = list(zip(lrs, kl_weights, strict=True))
        self.sums.zero_()

    def take(self, number: int) -> None:
        rows = slice(number * self._batch_size, (number + 1) * self._batch_size)
        self.sums += self._step(rows, *self._schedule[number])

    def state(self) -> dict[str, Tensor]:
        return _state(self.sums, self._step)

    def restore(self, number: int, state: dict[str, Tensor]) -> None:
        _restore(state, self.sums, self._step)


def _state(sums: Tensor, step: Step) -> dict[str, Tensor]:
    return {"sums": sums, "generator": step.generator.get_state()}


def _restore(state: dict[str, Tensor], sums: Tensor, step: Step) -> None:
    sums.copy_(state["sums"])
    step.generator.set_state(state["generator"])


def capture(step: Work, advance: Work, generator: torch.Generator) -> Work:
    """A CUDA graph of a step and the move to the next; `generator` is read at each replay.

    The graph keeps addresses, not tensors: what the step reads must live as long as it is replayed.
    """
    device = generator.device
    with torch.cuda.device(device):
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                step()
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        if torch.__version__ < "2.14":  # by version; later ones find the generators themselves
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph, stream=stream):
            step()
            advance()
    return graph.replay


class GraphedSteps:
    """Steps that are replayed: a graph for the full batches and one for a smaller last one."""

    def __init__(
        self,
        step: Step,
        count: int,
        batch_size: int,
        state: Iterable[Tensor],
        capture: Capture,
    ):
        """`count` images; `state` is all that a step changes, as a capture must leave no trace."""
        self._step, self._state, self._capture = step, list(state), capture
        self._batch_size = batch_size
        device = step.generator.device
        whole, rest = divmod(count, batch_size)
        self._sizes = [batch_size] * whole + [rest] * (rest > 0)
        steps = len(self._sizes)
        self._rows = torch.arange(batch_size, device=device)
        self._index = torch.zeros((), dtype=torch.int64, device=device)
        self._lrs = torch.zeros(steps, device=device)
        self._kl_weights = torch.zeros(steps, device=device)
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)
        self._replays: dict[int, Work] = {}

    def begin(self, seed: int, lrs: Sequence[float], kl_weights: Sequence[float]) -> None:
        self._step.draw(seed)
        if not self._replays:
            self._replays = {size: self._captured(size) for size in dict.fromkeys(self._sizes)}
            self._step.draw(seed)  # again: warm-ups have drawn, too
        self._index.zero_()
        self.sums.zero_()
        self._lrs.copy_(torch.tensor(lrs))
        self._kl_weights.copy_(torch.tensor(kl_weights))

    def take(self, number: int) -> None:
        self._replays[self._sizes[number]]()

    def state(self) -> dict[str, Tensor]:
        return _state(self.sums, self._step)

    def restore(self, number: int, state: dict[str, Tensor]) -> None:
        _restore(state, self.sums, self._step)
        self._index.fill_(number)

    def _captured(self, size: int) -> Work:
        def step() -> None:
            at = self._index.view(1)
            lr = self._lrs.index_select(0, at).view(())
            kl_weight = self._kl_weights.index_select(0, at).view(())
            rows = self._index * self._batch_size + self._rows[:size]
            self.sums += self._step(rows, lr, kl_weight)

        def advance() -> None:
            self._index += 1

        before = [tensor.clone() for tensor in self._state]
        self._index.zero_()  # warm-ups train on the first rows: what they do is undone
        replay = self._capture(step, advance, self._step.generator)
        with torch.no_grad():
            for tensor, value in zip(self._state, before, strict=True):
                tensor.copy_(value)
        return replay
