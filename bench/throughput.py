"""Training throughput: ours beside the loop that people write and beside Lightning.

    python -m bench.throughput [--images 12800] [--batch 256] [--rounds 3] [--device cpu]

Same model, same batch, one thread. Every way runs in a process of its own, as its users start it;
they take turns, and the median of the rounds counts. The rate is per core-second
(`time.process_time`), which other load disturbs least. Lightning is measured if it is installed
(bench/requirements.txt).
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import ToTensor

from bench.hardware import hardware, table
from pipeline.settings.hyperparameters import Hyperparameters
from pipeline.vae.model import VAE, build
from pipeline.vae.process import prepare_process
from pipeline.vae.setting import Setting as Told
from pipeline.vae.setting import read_setting
from pipeline.vae.training import Training

LR = 1e-3
Epoch = Callable[[], None]
Setting = dict[str, Any]
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


def told(setting: Setting, precision: str = "fp32") -> Told:
    chosen = Hyperparameters(**setting, lr=LR, precision=precision)
    return read_setting({**chosen.model_dump(), "likelihood": "bernoulli", "sigma": None})


def plain_vae(setting: Setting) -> VAE:
    """The model in the layout that torch gives it by itself."""
    return build((1, 28, 28), told(setting).architecture, 0).to(
        memory_format=torch.contiguous_format
    )


def loss_of(vae: nn.Module, x: Tensor) -> Tensor:
    """The negative ELBO of a batch as tutorials write it."""
    mu, log_var = vae.encode(x)
    logits = vae.decode(mu + torch.exp(0.5 * log_var) * torch.randn_like(mu))
    recon = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    kl = -0.5 * torch.sum(1 + log_var - mu.pow(2) - log_var.exp())
    return (recon + kl) / len(x)


def plain_loop(images: Tensor, setting: Setting, device: str) -> Epoch:
    vae = plain_vae(setting).to(device)
    optimizer = torch.optim.Adam(vae.parameters(), lr=LR)
    loader = DataLoader(Images(images[:, 0]), batch_size=setting["batch_size"], shuffle=True)

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


def lightning(images: Tensor, setting: Setting, device: str) -> Epoch:
    import lightning as L

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.vae = plain_vae(setting)

        def training_step(self, batch: Tensor, _: int) -> Tensor:
            loss = loss_of(self.vae, batch)
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=LR)

    loader = DataLoader(Images(images[:, 0]), batch_size=setting["batch_size"], shuffle=True)
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


def ours(images: Tensor, setting: Setting, device: str, precision: str = "fp32") -> Epoch:
    prepare_process()
    on_device = images.to(device)
    training = Training(on_device, on_device[:128], told(setting, precision), 0, 1000, device)

    def epoch() -> None:
        training.run_epoch()
        if device != "cpu":
            torch.cuda.synchronize()

    return epoch


def ours_bf16(images: Tensor, setting: Setting, device: str) -> Epoch:
    return ours(images, setting, device, "bf16")


def products_alone(images: Tensor, setting: Setting, device: str) -> Epoch:
    """The matrix products of the MLP's step and nothing else: the limit of the core."""
    widths = [784, *setting["hidden"]]
    latent, batch = setting["latent_dim"], setting["batch_size"]
    shapes = [*pairwise(widths), (widths[-1], 2 * latent), *pairwise([latent, *widths[::-1]])]
    layers = [
        (torch.randn(batch, i, device=device), torch.randn(o, i, device=device),
         torch.randn(batch, o, device=device))
        for i, o in shapes
    ]  # fmt: skip

    def epoch() -> None:
        for _ in range(len(images) // batch):
            for index, (x, weight, gradient) in enumerate(layers):
                torch.mm(x, weight.t())
                torch.mm(gradient.t(), x)
                if index:  # nobody asks for the gradient of the images
                    torch.mm(gradient, weight)

    return epoch


WAYS: dict[str, Callable[[Tensor, Setting, str], Epoch]] = {
    "plain loop": plain_loop,
    "Lightning": lightning,
    "ours, fp32": ours,
    "ours, bf16": ours_bf16,
    "its matrix products alone": products_alone,
}


class Way:
    """A process that trains in one way, an epoch at a time."""

    def __init__(self, name: str, images: int, setting: Setting, device: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        arguments = (name, images, setting, device, there)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        self.seconds: list[float] = []

    def run_epoch(self) -> None:
        self._here.send("epoch")
        self.seconds.append(self._here.recv())

    def end(self) -> None:
        self._here.send("end")
        self._process.join()


def _serve(name: str, count: int, setting: Setting, device: str, asked: Connection) -> None:
    warnings.simplefilter("ignore")  # of other libraries about themselves
    torch.set_num_threads(1)
    # content costs no time
    images = torch.randint(0, 256, (count, 1, 28, 28), dtype=torch.uint8)
    epoch = WAYS[name](images, setting, device)
    clock = time.process_time if device == "cpu" else time.perf_counter
    while asked.recv() == "epoch":
        start = clock()
        epoch()
        asked.send(clock() - start)


def compare(images: int, setting: Setting, rounds: int, device: str) -> dict[str, float]:
    """Images per second of all ways for one model: core-seconds on the CPU, seconds on a GPU."""
    names = [name for name in WAYS if name != "Lightning" or importlib.util.find_spec("lightning")]
    if setting["family"] != "mlp":
        names.remove("its matrix products alone")
    ways = {name: Way(name, images, setting, device) for name in names}
    for _ in range(rounds + 1):  # the first is for allocations, primitives, caches
        for way in ways.values():
            way.run_epoch()
    for way in ways.values():
        way.end()
    return {name: images / statistics.median(way.seconds[1:]) for name, way in ways.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=12_800)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=FAMILIES)
    options = parser.parse_args()
    rows = []
    for name in options.families:
        setting = FAMILIES[name] | {"batch_size": options.batch}
        rates = compare(options.images, setting, options.rounds, options.device)
        for way, rate in rates.items():
            ratio = f"{rate / rates['plain loop']:.2f}"
            rows.append({"model": name, "way": way, "images/s": f"{rate:,.0f}", "ratio": ratio})
    print(table(rows))
    print(hardware(options.device))


if __name__ == "__main__":
    main()
