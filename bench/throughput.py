"""Training throughput: ours beside the loop that people write and beside Lightning.

    python -m bench.throughput [--images 12800] [--rounds 3] [--device cpu]

Same model, same weights, same batch of 128, one core. Rounds alternate and the median counts;
the rate is per core-second (`time.process_time`), which other load disturbs least.
Lightning is measured if it is installed (bench/requirements.txt).
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import ToTensor

from bench.hardware import hardware, table
from pipeline.hyperparameters import Hyperparameters
from pipeline.vae.fit import Training
from pipeline.vae.model import build
from pipeline.vae.process import prepare_process

BATCH = 128
LR = 1e-3
Epoch = Callable[[], None]
FAMILIES: dict[str, dict[str, Any]] = {
    "mlp": {"family": "mlp", "hidden": [512, 256], "latent_dim": 32},
    "conv_stride": {"family": "conv_stride", "latent_dim": 2, "dense_units": 16},
    "conv_pool": {"family": "conv_pool", "filters": 16, "latent_dim": 8, "dense_units": 32},
}


class Images(Dataset[Tensor]):
    """What torchvision's datasets do for an item: a PIL image, then its transform."""

    def __init__(self, images: Tensor) -> None:
        self.images, self.transform = images, ToTensor()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(Image.fromarray(self.images[index].numpy(), mode="L"))


def config(setting: dict[str, Any], precision: str = "fp32") -> dict[str, Any]:
    chosen = Hyperparameters(**setting, batch_size=BATCH, lr=LR, precision=precision)
    return {**chosen.model_dump(), "likelihood": "bernoulli", "sigma": None}


def loss_of(vae: nn.Module, x: Tensor) -> Tensor:
    """The negative ELBO of a batch as tutorials write it."""
    mu, log_var = vae.encode(x)
    logits = vae.decode(mu + torch.exp(0.5 * log_var) * torch.randn_like(mu))
    recon = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    kl = -0.5 * torch.sum(1 + log_var - mu.pow(2) - log_var.exp())
    return (recon + kl) / len(x)


def plain_loop(images: Tensor, setting: dict[str, Any], device: str) -> Epoch:
    vae = build((1, 28, 28), config(setting), 0).to(device)
    optimizer = torch.optim.Adam(vae.parameters(), lr=LR)
    loader = DataLoader(Images(images[:, 0]), batch_size=BATCH, shuffle=True)

    def epoch() -> None:
        total = 0.0
        for x in loader:
            x = x.to(device)
            optimizer.zero_grad()
            loss = loss_of(vae, x)
            loss.backward()
            optimizer.step()
            total += loss.item()

    return epoch


def lightning(images: Tensor, setting: dict[str, Any], device: str) -> Epoch:
    import lightning as L

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.vae = build((1, 28, 28), config(setting), 0)

        def training_step(self, batch: Tensor, _: int) -> Tensor:
            loss = loss_of(self.vae, batch)
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=LR)

    loader = DataLoader(Images(images[:, 0]), batch_size=BATCH, shuffle=True)
    module = Module()

    def epoch() -> None:
        trainer = L.Trainer(
            max_epochs=1,
            accelerator="cpu" if device == "cpu" else "gpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, loader)

    return epoch


def ours(images: Tensor, setting: dict[str, Any], device: str, precision: str) -> Epoch:
    on_device = images.to(device)
    training = Training(on_device, on_device[:BATCH], config(setting, precision), 0, 1000, device)

    def epoch() -> None:
        training.run_epoch()
        if device != "cpu":
            torch.cuda.synchronize()

    return epoch


def products_alone(images: Tensor, setting: dict[str, Any], device: str) -> Epoch:
    """The matrix products of the MLP's step and nothing else: the limit of the core."""
    widths = [784, *setting["hidden"]]
    latent = setting["latent_dim"]
    shapes = [*pairwise(widths), (widths[-1], 2 * latent), *pairwise([latent, *widths[::-1]])]
    layers = [
        (torch.randn(BATCH, i, device=device), torch.randn(o, i, device=device),
         torch.randn(BATCH, o, device=device))
        for i, o in shapes
    ]  # fmt: skip

    def epoch() -> None:
        for _ in range(len(images) // BATCH):
            for index, (x, weight, gradient) in enumerate(layers):
                torch.mm(x, weight.t())
                torch.mm(gradient.t(), x)
                if index:  # nobody asks for the gradient of the images
                    torch.mm(gradient, weight)

    return epoch


def measure(ways: dict[str, Epoch], images: int, rounds: int, device: str) -> dict[str, float]:
    """Images per second of every way: core-seconds on the CPU, seconds on a GPU."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for epoch in ways.values():
        epoch()  # allocations, primitives, caches
    for _ in range(rounds):
        for name, epoch in ways.items():
            start = clock()
            epoch()
            seconds[name].append(clock() - start)
    return {name: images / statistics.median(values) for name, values in seconds.items()}


def compare(images: Tensor, setting: dict[str, Any], rounds: int, device: str) -> dict[str, float]:
    """Images per second of all ways for one model."""
    torch.set_num_threads(1)
    ways = {"plain loop": plain_loop(images, setting, device)}
    if importlib.util.find_spec("lightning"):
        ways["Lightning"] = lightning(images, setting, device)
    rates = measure(ways, len(images), rounds, device)
    prepare_process()  # ours alone: the others run as everybody starts them
    ways = {f"ours, {p}": ours(images, setting, device, p) for p in ("fp32", "bf16")}
    if setting["family"] == "mlp":
        ways["its matrix products alone"] = products_alone(images, setting, device)
    return rates | measure(ways, len(images), rounds, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=12_800)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=FAMILIES)
    options = parser.parse_args()
    shape = (options.images, 1, 28, 28)
    images = torch.randint(0, 256, shape, dtype=torch.uint8)  # their content costs no time
    rows = []
    for name in options.families:
        rates = compare(images, FAMILIES[name], options.rounds, options.device)
        for way, rate in rates.items():
            ratio = f"{rate / rates['plain loop']:.2f}"
            rows.append({"model": name, "way": way, "images/s": f"{rate:,.0f}", "ratio": ratio})
    print(table(rows))
    print(hardware(options.device))


if __name__ == "__main__":
    main()
