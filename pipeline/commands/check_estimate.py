"""What a sweep would cost, for `check`: images, weights, multiply-adds, memory, minutes, disk.

Nothing is written. Minutes come from a few real steps of the centre's setting on random images,
timed on this machine.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import psutil

from pipeline.data.preview import Images, megabytes
from pipeline.settings.hyperparameters import Choices, Value
from pipeline.settings.machine import Machine, cores
from pipeline.settings.space import Space

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.study.storage.rows import Part
    from pipeline.vae.cost import Size
    from pipeline.vae.model import VAE
    from pipeline.vae.optimizer import Optimizer

MOST_CORNERS = 64
STATE = 3  # floats that a checkpoint holds for each weight: itself and Adam's two moments
STEPS = 5  # timed, after as many that are not


def estimate_text(space: Space, machine: Machine, images: Images, kept: Sequence[Part]) -> str:
    """The lines that `check` ends with; `kept` are the parts of trials that count."""
    lines = ["", "estimates:", f"  images     {images.note}"]
    if images.shape is None:
        return "\n".join([*lines, "  the rest once `prepare` has read the images"])
    shape = images.shape
    sizes = [_size(space.record(chosen), shape) for chosen in _settings(space)]
    weights = [size.weights for size in sizes]
    forward = _span([size.multiply_adds for size in sizes], " multiply-adds an image")
    train = _training_images(space, images)
    step, batch, memory = time_steps(space, shape)
    epoch = math.ceil(train / batch) * step
    memory += train * math.prod(shape)
    return "\n".join(
        [
            *lines,
            f"  weights    {_span(weights)}",
            f"  forward    {forward}",
            f"  memory     about {megabytes(memory)} a worker: this process after its steps, and"
            " the training images",
            *_too_large(space, machine, shape),
            f"  a trial    about {_minutes(space.search.epochs * epoch)} for {space.search.epochs}"
            " epochs with the centre's setting",
            f"  time       {_time(space, machine, shape, train, epoch, kept)}, if nothing stops"
            f" early: {step * 1000:.1f} ms a step of {batch} images, timed just now with the"
            " centre's setting on one core",
            f"  disk       {_disk(space, images, max(weights))}",
        ]
    )


def _training_images(space: Space, images: Images) -> int:
    count = min(images.count, space.data.limit or images.count)
    train = count - round(count * space.data.validation.fraction)
    return 2 * train if space.data.flip else train


def _settings(space: Space) -> Iterator[dict[str, Value]]:
    """The centre, and the settings at the ends of all that decides the weights."""
    from pipeline.study.search.sampler import centre

    middle = centre(space.searched)
    yield middle
    ends = {
        name: domain.choices if isinstance(domain, Choices) else [domain.low, domain.high]
        for name, domain in space.searched.items()
        if name in space.kind.of_the_model()
    }
    for corner in itertools.islice(itertools.product(*ends.values()), MOST_CORNERS):
        whole = (int(value) if isinstance(value, float) else value for value in corner)
        yield middle | dict(zip(ends, whole, strict=True))


def _too_large(space: Space, machine: Machine, shape: tuple[int, int, int]) -> Iterator[str]:
    """Whether settings need more memory than a GPU here has. That is said and no more: what is
    proposed depends on the space alone, whichever machine asks."""
    import torch

    from pipeline.study.search.constraints import within
    from pipeline.vae.cost import memory_bytes
    from pipeline.vae.setting import read_setting

    if machine.slurm or machine.device == "cpu" or not torch.cuda.is_available():
        return
    count, (_, _, index) = torch.cuda.device_count(), machine.device.partition(":")
    here = [int(index)] if index else range(count)
    total = min((torch.cuda.get_device_properties(i).total_memory for i in here if i < count),
                default=0)  # fmt: skip
    rule, batch = within(space, shape), dict[str, Value]()
    if domain := space.searched.get("batch_size"):
        ends = domain.choices if isinstance(domain, Choices) else [domain.high]
        batch["batch_size"] = max(int(each) for each in ends)
    asked = [{**chosen, **batch} for chosen in _settings(space)]
    needs = [memory_bytes(read_setting(space.record(each)), shape) for each in asked if rule(each)]
    if total and (most := max(needs, default=0)) > total:
        yield (
            f"  GPU        the largest setting needs about {megabytes(most)}, and a GPU here has"
            f" {megabytes(total)}: its trials would fail as too large; `constraints: {{memory_mb:"
            f" {total // 10**6}}}` in `search` has none proposed"
        )


def _size(record: dict[str, Any], shape: tuple[int, int, int]) -> Size:
    """Of the model of a full setting."""
    from pipeline.vae.cost import count_size
    from pipeline.vae.setting import read_architecture

    return count_size(read_architecture(record), shape)


def _span(counts: list[int], unit: str = "") -> str:
    """The first, which is the centre's, and the ends of all."""
    low, high = min(counts), max(counts)
    said = f"{counts[0]:,}{unit} at the centre"
    return f"{said}, {low:,} … {high:,} over the corners" if low < high else said


def time_steps(space: Space, shape: tuple[int, int, int]) -> tuple[float, int, int]:
    """Seconds a step of the centre's setting on one thread, its batch, this process's memory."""
    import torch

    from pipeline.study.search.sampler import centre
    from pipeline.vae.model import build
    from pipeline.vae.optimizer import Optimizer
    from pipeline.vae.setting import read_setting

    setting = read_setting(space.record(centre(space.searched)))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        vae = build(shape, setting.architecture, 0)
        optimizer = Optimizer(vae.parameters(), setting)
        images = torch.rand(setting.batch_size, *shape, generator=torch.Generator())
        times = [_step(vae, optimizer, images) for _ in range(2 * STEPS)]
    finally:
        torch.set_num_threads(before)
    return min(times[STEPS:]), setting.batch_size, psutil.Process().memory_info().rss


def _step(vae: VAE, optimizer: Optimizer, images: Tensor) -> float:
    import torch

    from pipeline.vae.model import kl_per_dim, reparameterize

    start = time.perf_counter()
    mu, log_var = vae.encode(images)
    decoded = vae.decode(reparameterize(mu, log_var, torch.ones_like(mu)))
    loss = (vae.likelihood.nll(decoded, images) + kl_per_dim(mu, log_var).sum(1)).mean()
    loss.backward()
    optimizer.step(1e-6)
    return time.perf_counter() - start


def _time(
    space: Space,
    machine: Machine,
    shape: tuple[int, int, int],
    train: int,
    epoch: float,
    kept: Sequence[Part],
) -> str:
    """Of search and retrain, by the seconds of an epoch of the centre's setting."""
    from pipeline.study.search.clock import cost_of
    from pipeline.study.search.forecast import forecast
    from pipeline.study.search.sampler import centre

    search, retrain = space.search, space.retrain
    top = retrain.top if space.searched else 1
    workers = machine.workers or cores()
    # The search's settings cost more or less than the centre's: by the formula of the clock.
    central = cost_of(space, shape, train)(centre(space.searched))
    searched = epoch * forecast(space, shape, train, begins_with=kept).cost / central
    seconds = searched / min(workers, search.parallelism)
    seconds += top * retrain.seeds * retrain.epochs * epoch / min(workers, top * retrain.seeds)
    return f"about {_minutes(seconds)} on {workers} workers, search and retrain"


def _disk(space: Space, images: Images, weights: int) -> str:
    """Of runs/: arrays, checkpoints of who is at work or paused, three files a retrained run."""
    from pipeline.work.checkpoints import MOST_PAUSED

    assert images.shape is not None
    retrain = space.retrain
    runs = (retrain.top if space.searched else 1) * retrain.seeds
    arrays = (images.count + images.test) * math.prod(images.shape)
    kept = 4 * weights * (3 * runs + 3 + retrain.seeds)  # in the state, and the winner's once more
    paused = min(space.search.trials, MOST_PAUSED) if len(space.search.pauses) > 1 else 0
    live = 4 * STATE * weights * (space.search.parallelism + paused)
    return (
        f"about {megabytes(arrays + kept)} in runs/ for images and weights, and up to"
        f" {megabytes(live)} of checkpoints while it runs"
    )


def _minutes(seconds: float) -> str:
    if seconds < 60:
        return f"{math.ceil(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
