"""Writes a search space for a folder of images: what suits them, and a budget for the time."""

from __future__ import annotations

import json
import math
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from pipeline.commands.check import allowed
from pipeline.commands.check_estimate import time_steps
from pipeline.data.image_folder import DEEP, IMAGE_FORMATS, Labelled, image_files, read_image
from pipeline.errors import UserError
from pipeline.files import write_text
from pipeline.settings.machine import Machine, cores
from pipeline.settings.own_data import own_path
from pipeline.settings.own_family import kind_of
from pipeline.settings.own_files import files_of, reader
from pipeline.settings.sections import Data
from pipeline.settings.space import NAME, Space, parse_space
from pipeline.settings.validation import parse_yaml
from pipeline.work.own import check_own

SIDES = (64, 32, 16, 8)  # of which the largest that most pictures have
PHOTOGRAPH = 32  # pixels of a side from which convolutions with depth are worth their time
LOOKED_AT = 64  # images whose pixels are read
SHARE = 0.7  # of the time, as what is measured on an idle core is not all
FEW = 5000  # images: mirrored ones help
GREY_MODES = ("1", "L", *DEEP)
EPOCHS = (100, 60, 40, 30, 20, 15, 10, 8, 6, 5, 4, 3, 2)
SIZES = ((20, 2, 3), (12, 2, 2), (6, 1, 2), (2, 1, 1))  # trials, candidates, seeds of each


@dataclass(frozen=True)
class Pictures:
    """What a folder holds."""

    train: int  # files
    test: bool  # whether it has test images of its own
    sizes: int  # how many different ones
    smallest: tuple[int, int]  # (height, width)
    largest: tuple[int, int]
    side: int  # the median of the smaller sides
    colours: Counter[str]  # grey, rgb
    deep: bool  # whether some have 16 bits


def new_space(
    root: Path, machine: Machine, name: str, images: str, seconds: float, family: str | None = None
) -> Path:
    """Writes search_spaces/NAME.yaml for the images of a folder; returns the file.

    The budget takes about so many seconds on this machine, with the `family` FILE.py:CLASS of one's
    own if it is given. Raises UserError for a name that is taken, for images that cannot be used
    and for a family that is faulty.
    """
    file = root / "search_spaces" / f"{name}.yaml"
    if not NAME.fullmatch(name):
        raise UserError(
            f"new: a sweep's name is lower-case letters, digits, `-`, `_`: not {name!r}"
        )
    if file.exists():
        raise UserError(f"new: search_spaces/{name}.yaml is there already: choose another name")
    folder = own_path(root, images)
    if not folder.is_dir():
        raise UserError(
            f"new: --images must be a folder, but there is none at {folder}: correct it"
        )
    train, test = image_files(folder)
    pictures = _look(train + test, len(train), bool(test))
    head = _head(name, images, pictures)
    data = Data.model_validate(parse_yaml(head, name)["data"])
    sample = [read_image(path, data) for path, _ in train[:: max(1, len(train) // LOOKED_AT)]]
    height, width, channels = sample[0].shape
    shape = (channels, height, width)
    model = _usual_family(shape) if family is None else _own_family(root, family)
    text = head + _model(sample, channels) + _parameters(pictures, shape, model)
    if family is not None:
        check_own(_parsed(root, name, text), shape)
    text += _budget(root, machine, name, text, shape, pictures, seconds)
    _parsed(root, name, text)
    write_text(file, text)
    return file


def _look(files: list[Labelled], train: int, test: bool) -> Pictures:
    """The heads of all files. Raises UserError for one that is no image."""
    from PIL import Image

    formats = sorted(set(IMAGE_FORMATS.values()))
    sizes, colours, deep = list[tuple[int, int]](), Counter[str](), False
    for path, _ in files:
        try:
            with (
                warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning),
                Image.open(path, formats=formats) as image,
            ):
                sizes.append((image.height, image.width))
                colours["grey" if image.mode in GREY_MODES else "rgb"] += 1
                deep |= image.mode in DEEP
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            detail = " ".join(str(error).split())
            raise UserError(f"new: {path}: is no readable image ({detail}): remove it") from None
    side = int(median(min(size) for size in sizes))
    return Pictures(train, test, len(set(sizes)), min(sizes), max(sizes), side, colours, deep)


def _head(name: str, images: str, pictures: Pictures) -> str:
    """The section `data` with its comments."""
    count = sum(pictures.colours.values())
    sizes = " … ".join(f"{h}×{w}" for h, w in dict.fromkeys([pictures.smallest, pictures.largest]))
    kinds = ", ".join(f"{number} {kind}" for kind, number in pictures.colours.most_common())
    lines = [
        f"# {name}: written for {count} images of {sizes} pixels ({kinds}).",
        "# Every key: docs/search-space.md. `python -m pipeline check` says what it costs.",
        "data:",
        "  name: images",
        f"  path: {json.dumps(images, ensure_ascii=False)}",
    ]
    if pictures.sizes > 1 or pictures.side > SIDES[0]:
        side = next((each for each in SIDES if each <= pictures.side), SIDES[-1])
        lines.append(f"  size: {side:<24}# cut around the centre, then resized; or [height, width]")
    if len(pictures.colours) > 1 or pictures.deep:
        colour = "rgb" if pictures.colours["rgb"] else "grey"
        lines.append(f"  colour: {colour:<22}# all alike; 16 bits are rounded to 8")
    if count < FEW and pictures.colours["rgb"]:
        lines.append("  flip: true                    # mirrored, too: not for text")
    fraction = 0.2 if pictures.train < 1000 else 0.1
    lines.append(f"  validation: {{fraction: {fraction}, seed: 42}}")
    return "\n".join(lines) + "\n"


def _model(sample: list[np.ndarray], channels: int) -> str:
    values = np.concatenate([image.ravel() for image in sample])
    ends = float(((values < 16) | (values > 239)).mean())
    if channels == 1 and ends > 0.8:
        return "model:\n  likelihood: bernoulli         # nearly black and white; or binarized\n"
    return (
        "model:\n  likelihood: discretized_logistic   # of 8-bit values: gives bits per dimension\n"
    )


def _usual_family(shape: tuple[int, int, int]) -> list[str]:
    if min(shape[1:]) >= PHOTOGRAPH:
        return [
            "  family: residual              # as deep as the image is large (docs/model.md)",
            "  filters: {choices: [16, 24, 32]}",
            "  blocks: {choices: [1, 2]}",
        ]
    return [
        "  family: mlp                   # small images; or conv_stride, conv_pool",
        "  hidden: {choices: [[512, 256], [512], [256, 128]]}",
        "  skip: true",
    ]


def _own_family(root: Path, family: str) -> list[str]:
    """A family of one's own, with its hyperparameters at their defaults."""
    try:
        read = reader(root)
        kind = kind_of([family], {file: read(file) for file in files_of([family])})
    except ValueError as error:
        raise UserError(f"new: --family: {error}") from None
    lines = [f"  family: {family}"]
    for key, families in kind.readers.items():
        if family in families:
            field = kind.model_fields[key]
            meaning = f"{field.description}; {allowed(key, kind)}"
            lines.append(f"  {key}: {json.dumps(field.get_default()):<{28 - len(key)}}# {meaning}")
    return [*lines, "  # fixed so far: a range {low: …, high: …} or {choices: […]} is searched"]


def _parameters(pictures: Pictures, shape: tuple[int, int, int], model: list[str]) -> str:
    pixels, train = math.prod(shape), pictures.train * (0.6 if not pictures.test else 0.8)
    batch = int(min(128, max(8, 2 ** round(math.log2(max(train / 30, 1))))))
    low = 8 if pixels < 1000 else 16 if pixels < 3000 else 32
    lines = ["parameters:", *model]
    lines += [
        f"  latent_dim: {{low: {low}, high: {4 * low}, step: {low}}}",
        f"  batch_size: {batch:<18}# some 30 steps an epoch or more",
        "  lr: {low: 3.0e-4, high: 5.0e-3, log: true}",
        "  schedule: cosine",
        "  lr_warmup: 0.1",
        "  kl_warmup: 0.05",
        "  max_grad_norm: 1000           # nats: against single images with huge gradients",
    ]
    return "\n".join(lines) + "\n"


def _budget(
    root: Path,
    machine: Machine,
    name: str,
    text: str,
    shape: tuple[int, int, int],
    pictures: Pictures,
    seconds: float,
) -> str:
    """The largest that fits into the time, by real steps of the centre's setting on one core."""
    space = _parsed(root, name, text)
    step, batch, _ = time_steps(space, shape)
    data = space.data
    train = pictures.train * (1 if pictures.test else 1 - data.test.fraction)
    train *= (1 - data.validation.fraction) * (2 if data.flip else 1)
    epoch = math.ceil(train / batch) * step
    workers = machine.workers or cores()

    def takes(epochs: int, trials: int, top: int, seeds: int) -> float:
        waves = math.ceil(top * seeds / workers)
        return epoch * epochs * (0.5 * trials / min(workers, 4) + 2 * waves)  # half pause early

    plans = [(epochs, *size) for size in SIZES for epochs in EPOCHS if epochs >= 10]
    plans += [(epochs, *size) for size in SIZES for epochs in EPOCHS if epochs < 10]
    fits = (plan for plan in plans if takes(*plan) <= SHARE * seconds)
    epochs, trials, top, seeds = next(fits, (EPOCHS[-1], *SIZES[-1]))
    minutes = max(1, round(takes(epochs, trials, top, seeds) / 60))
    return (
        f"search:                         # about {minutes} min, on {workers} workers by"
        f" {step * 1000:.0f} ms a step\n"
        f"  trials: {trials:<22}# more extend the study\n"
        f"  epochs: {epochs}\n"
        f"  parallelism: 4\n"
        f"retrain: {{top: {top}, seeds: {seeds}, epochs: {2 * epochs}}}\n"
        "evaluate: {iw_samples: 50}\n"
        "render: {projections: [pca, tsne]}\n"
    )


def _parsed(root: Path, name: str, text: str) -> Space:
    where = f"search_spaces/{name}.yaml"
    return parse_space(name, parse_yaml(text, where), where, reader(root))
