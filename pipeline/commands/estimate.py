"""What a sweep would cost, for `check`: images, weights, multiply-adds, memory, minutes, disk.

Nothing is read but the heads of data files, and nothing is written. Weights and multiply-adds are
counted on models without content (torch's meta device); minutes come from a few real steps of the
centre's setting on random images, timed on this machine.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.files import read_json
from pipeline.paths import Paths
from pipeline.record import checked
from pipeline.settings.hyperparameters import Choices, Value
from pipeline.settings.machine import Machine, cores
from pipeline.settings.own_data import own_place
from pipeline.settings.own_files import SOURCES
from pipeline.settings.sections import Data
from pipeline.settings.space import Space

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.study.rows import Part
    from pipeline.vae.cost import Size
    from pipeline.vae.model import VAE

KNOWN = {  # images for training and testing, and their shape
    "fashion-mnist": (60_000, 10_000, (1, 28, 28)),
    "mnist": (60_000, 10_000, (1, 28, 28)),
    "digits": (1_797, 0, (1, 8, 8)),
}
MOST_CORNERS = 64
STATE = 3  # floats that a checkpoint holds for each weight: itself and Adam's two moments
STEPS = 5  # timed, after as many that are not


@dataclass(frozen=True)
class Images:
    """How many images there are of which shape; `note` is what `check` says of them."""

    note: str
    count: int = 0
    test: int = 0
    shape: tuple[int, int, int] | None = None


def estimate_text(space: Space, machine: Machine, images: Images, kept: Sequence[Part] = ()) -> str:
    """The lines that `check` ends with; `kept` are the parts of trials that count."""
    lines = ["", "estimates:", f"  images     {images.note}"]
    if images.shape is None:
        return "\n".join([*lines, "  the rest once `prepare` has read the images"])
    shape = images.shape
    sizes = [_size(space.record(chosen), shape) for _, chosen in _corners(space)]
    weights = [size.weights for size in sizes]
    forward = _span([size.multiply_adds for size in sizes], "multiply-adds an image")
    train = _training_images(space, images)
    step, batch, memory = time_steps(space, shape)
    memory += train * math.prod(shape)
    return "\n".join(
        [
            *lines,
            f"  weights    {_span(weights)}",
            f"  forward    {forward}",
            f"  memory     about {_bytes(memory)} a worker: this process after its steps, and the"
            " training images",
            f"  a trial    {_trial(space, train, step, batch)}",
            f"  time       {_time(space, machine, shape, train, step, batch, kept)}",
            f"  disk       {_disk(space, images, max(weights))}",
        ]
    )


# Images


def find_images(space: Space, paths: Paths) -> Images:
    """What can be told of the data without reading pixels; a reader of your own is asked for all.

    Raises UserError where `data.path` cannot be read.
    """
    data = space.data
    if paths.manifest.exists():
        manifest = read_json(checked(paths, paths.manifest))
        if manifest["data"] == data.name and data.path is None:
            counts, (c, h, w) = manifest["counts"], manifest["shape"]
            note = f"{counts['train']:,} to train on, {c}×{h}×{w}: prepared"
            count = counts["train"] + counts["validation"]
            return Images(note, count, counts["test"], (c, h, w))
    if data.path is None:
        count, test, shape = KNOWN[data.name]
        if not test:
            test = round(count * data.test.fraction)
            count -= test
        note = f"{count:,} and {test:,} for the test, {'×'.join(map(str, shape))}"
        return Images(note, count, test, shape)
    path = own_place(data, paths.root)
    try:
        if path.is_dir():
            next(path.iterdir(), None)
        else:
            path.open("rb").close()
    except PermissionError:
        raise UserError(
            f"data.path: {path} cannot be read by you: change its permissions"
        ) from None
    if data.name == "own":
        found = _own(space, path, paths)
    elif data.name == "images":
        found = _folder(path, data)
    else:
        found = (_npz if data.name == "npz" else _pickle)(path)
    if found.test or found.shape is None:
        return found
    test = round(found.count * data.test.fraction)
    return Images(found.note, found.count - test, test, found.shape)


def _folder(path: Path, data: Data) -> Images:
    """The files of a folder, and the shape of the first, fitted as the section says."""
    from pipeline.data.image_files import image_files, read_image

    train, test = image_files(path)
    height, width, channels = read_image(train[0][0], data).shape
    count, classes = len(train), len({label for _, label in train})
    note = f"{count:,} in {classes} classes at {path}, the first {channels}×{height}×{width}"
    return Images(note, count, len(test), (channels, height, width))


def _own(space: Space, path: Path, paths: Paths) -> Images:
    """What a reader gives, as `prepare` has it."""
    from pipeline.data.own_reader import read_own

    raw = read_own(space.data, space.section("data")[SOURCES], paths)
    count, channels, height, width = raw.train_images.shape
    note = f"{count:,} by {space.data.reader} at {path}, {channels}×{height}×{width}"
    test = len(raw.test_images) if raw.test_images is not None else 0
    return Images(note, count, test, (channels, height, width))


def _npz(path: Path) -> Images:
    """The heads of an npz file's arrays."""
    from pipeline.data.readers import look_at_npz

    (count, *shape), test = look_at_npz(path)
    note = f"{count:,} at {path}, {'×'.join(map(str, shape))}"
    return Images(note, count, test, (shape[0], shape[1], shape[2]))


def _pickle(path: Path) -> Images:
    return Images(f"a pickle of {_bytes(path.stat().st_size)} at {path}")


def _training_images(space: Space, images: Images) -> int:
    count = min(images.count, space.data.limit or images.count)
    train = count - round(count * space.data.validation.fraction)
    return 2 * train if space.data.flip else train


# Weights and steps


def _corners(space: Space) -> Iterator[tuple[str, dict[str, Value]]]:
    """The centre, and the settings at the ends of all that decides the weights."""
    from pipeline.study.sampler import centre

    middle = centre(space.searched)
    yield "centre", middle
    ends = {
        name: domain.choices if isinstance(domain, Choices) else [domain.low, domain.high]
        for name, domain in space.searched.items()
        if name in space.kind.of_the_model()
    }
    for index, corner in enumerate(itertools.product(*ends.values())):
        if index == MOST_CORNERS:
            return
        chosen = dict(zip(ends, corner, strict=True))
        yield (
            f"corner {index}",
            middle
            | {
                name: int(value) if isinstance(value, float) else value
                for name, value in chosen.items()
            },
        )


def _size(record: dict[str, Any], shape: tuple[int, int, int]) -> Size:
    """Of the model of a full setting."""
    from pipeline.vae.cost import count_size
    from pipeline.vae.setting import read_architecture

    return count_size(read_architecture(record), shape)


def _span(counts: list[int], unit: str = "") -> str:
    """The first, which is the centre's, and the ends of all."""
    low, high = min(counts), max(counts)
    said = f"{counts[0]:,}{' ' if unit else ''}{unit} at the centre"
    return f"{said}, {low:,} … {high:,} over the corners" if low < high else said


def _trial(space: Space, train: int, step: float, batch: int) -> str:
    """What the centre's would take alone."""
    search = space.search
    seconds = search.epochs * math.ceil(train / batch) * step
    return f"about {_minutes(seconds)} for {search.epochs} epochs with the centre's setting"


def time_steps(space: Space, shape: tuple[int, int, int]) -> tuple[float, int, int]:
    """Seconds a step of the centre's setting on one thread, its batch, this process's memory."""
    import psutil
    import torch

    from pipeline.study.sampler import centre
    from pipeline.vae.model import build
    from pipeline.vae.setting import read_architecture

    record = space.record(centre(space.searched))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        vae = build(shape, read_architecture(record), 0)
        optimizer = torch.optim.Adam(vae.parameters(), lr=1e-6, foreach=True)
        images = torch.rand(record["batch_size"], *shape, generator=torch.Generator())
        times = [_step(vae, optimizer, images) for _ in range(2 * STEPS)]
    finally:
        torch.set_num_threads(before)
    return min(times[STEPS:]), record["batch_size"], psutil.Process().memory_info().rss


def _step(vae: VAE, optimizer: Any, images: Tensor) -> float:
    import torch

    from pipeline.vae.model import kl_per_dim, reparameterize

    start = time.perf_counter()
    mu, log_var = vae.encode(images)
    decoded = vae.decode(reparameterize(mu, log_var, torch.ones_like(mu)))
    loss = (vae.likelihood.nll(decoded, images) + kl_per_dim(mu, log_var).sum(1)).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return time.perf_counter() - start


def _time(
    space: Space,
    machine: Machine,
    shape: tuple[int, int, int],
    train: int,
    step: float,
    batch: int,
    kept: Sequence[Part],
) -> str:
    from pipeline.study.forecast import forecast

    search, retrain = space.search, space.retrain
    top = retrain.top if space.searched else 1
    workers = machine.workers or cores()
    epoch = math.ceil(train / batch) * step
    # The search's settings cost more or less than the centre's: by the formula of the clock.
    foreseen = forecast(space, shape, train, begins_with=kept)
    searched = epoch * foreseen.cost / _centre_cost(space, shape, train)
    seconds = searched / min(workers, search.parallelism)
    seconds += top * retrain.seeds * retrain.epochs * epoch / min(workers, top * retrain.seeds)
    return (
        f"about {_minutes(seconds)} on {workers} workers, search and retrain, if nothing stops"
        f" early: {step * 1000:.1f} ms a step of {batch} images, timed just now with the centre's"
        " setting on one core"
    )


def _centre_cost(space: Space, shape: tuple[int, int, int], train: int) -> int:
    """Of an epoch, as the clock of the search counts."""
    from pipeline.study.sampler import centre
    from pipeline.vae.cost import epoch_cost
    from pipeline.vae.setting import read_setting

    return epoch_cost(read_setting(space.record(centre(space.searched))), shape, train)


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
        f"about {_bytes(arrays + kept)} in runs/ for images and weights, and up to"
        f" {_bytes(live)} of checkpoints while it runs"
    )


def _minutes(seconds: float) -> str:
    if seconds < 60:
        return f"{math.ceil(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _bytes(count: float) -> str:
    return f"{count / 1e6:,.0f} MB" if count < 1e9 else f"{count / 1e9:,.1f} GB"
