"""A folder of images as an array: which files, of which classes, and their pixels, of one shape."""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from pipeline.data.readers import ONE_CLASS, RawData
from pipeline.errors import UserError
from pipeline.files import sha256_of
from pipeline.paths import is_text
from pipeline.settings.sections import Data

if TYPE_CHECKING:
    from PIL import Image

Labelled = tuple[Path, str]  # an image file and its class

IMAGE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP"}
DEEP = ("I;16", "I;16B", "I;16L", "I")  # modes of grey with 16 bits
MODES = {"grey": "L", "rgb": "RGB"}


def read_images(folder: Path, data: Data | None = None, scratch: Path | None = None) -> RawData:
    """A folder of png, jpg and bmp files, or of one subfolder of them for each class.

    Folders `train` and `test` of such a kind are the training and test images. All images have
    one size and are all grey or all RGB, unless `data` makes them so (see `read_image`). Hidden
    files are left out; any other file is an error. Raises UserError with the first file that cannot
    be used, and how many there are.

    The images are pages of a file without a name in the folder `scratch`: they may be more than
    memory holds.
    """
    train, test = image_files(folder)
    files = train + test
    hasher = hashlib.sha256()
    with tempfile.TemporaryFile(dir=scratch) as store:
        shape = _copy_pixels(files, folder, data, store, hasher)
        store.flush()
        images: np.ndarray = np.memmap(store, np.uint8, "r", shape=(len(files), *shape))
    classes = sorted({name for _, name in files})
    labels = np.array([classes.index(name) for _, name in files], np.int64)
    own = len(train)
    return RawData(
        images[:own],
        labels[:own],
        images[own:] if test else None,
        labels[own:] if test else None,
        classes,
        {"images": hasher.hexdigest()},
    )


def _copy_pixels(
    files: list[tuple[Path, str]], folder: Path, data: Data | None, store: IO[bytes], hasher: Any
) -> tuple[int, int, int]:
    """Writes the images one after the other, and their shape (C, H, W) is returned; `hasher` is fed
    with the digests and names of the files. Raises UserError."""
    first: tuple[int, ...] = ()
    wrong: list[UserError] = []
    for file, _ in files:
        try:
            pixels = read_image(file, data)
            first = first or pixels.shape
            _check_shape(file, pixels.shape, first)
        except UserError as error:
            wrong.append(error)
            continue
        store.write(pixels.transpose(2, 0, 1).tobytes())
        hasher.update(f"{sha256_of(file)}  {file.relative_to(folder).as_posix()}\n".encode())
    if wrong:
        count = f" ({len(wrong)} of {len(files)} files cannot be used)" if wrong[1:] else ""
        raise UserError(f"{wrong[0]}{count}")
    height, width, channels = first
    return channels, height, width


def _check_shape(file: Path, shape: tuple[int, ...], first: tuple[int, ...]) -> None:
    if shape != first:
        raise UserError(
            f"{file}: all images must have the (height, width, channels) of the first, {first}, but"
            f" got {shape}: resize or convert it, or say `size` and `colour` in the section data"
        )


def image_files(folder: Path) -> tuple[list[Labelled], list[Labelled]]:
    """The training and test images of a folder with their classes. Raises UserError.

    No test images: the folder has none of its own. No pixel is read.
    """
    splits = {entry.name.lower(): entry for entry in _visible(folder) if entry.is_dir()}
    if not {"train", "test"} & splits.keys():
        return _labelled_files(folder), []
    for name, entry in splits.items():
        if name not in ("train", "test"):
            raise UserError(
                f"{entry}: beside `train` and `test` there may be no other folder: move its images"
                " into train (validation images are split off these), or remove it"
            )
    for name in ("train", "test"):
        if name not in splits:
            raise UserError(
                f"{folder}: the folders `train` and `test` go together, but {name} is missing: add"
                " it, or move the class folders up"
            )
    if len(_visible(folder)) > len(splits):
        raise UserError(f"{folder}: must hold images or folders, but has both: sort them")
    train, test = _labelled_files(splits["train"]), _labelled_files(splits["test"])
    unknown = sorted({name for _, name in test} - {name for _, name in train})
    if unknown:
        raise UserError(
            f"{splits['test']}: its class {unknown[0]!r} has no training images in"
            f" {splits['train']}: rename or remove it"
        )
    return train, test


def _labelled_files(folder: Path) -> list[Labelled]:
    """All files of the folder with the names of their classes. Raises UserError."""
    entries = _visible(folder)
    folders = [entry for entry in entries if entry.is_dir()]
    if folders and len(folders) < len(entries):
        raise UserError(f"{folder}: must hold images or class folders, but has both: sort them")
    files = []
    for parent in folders or [folder]:
        if folders and not is_text(parent.name):
            raise UserError(f"{parent}: a class's name must be text in UTF-8: rename the folder")
        found = _visible(parent)
        if not found:
            raise UserError(f"{parent}: must hold png, jpg or bmp images, but is empty: add some")
        files += [(file, parent.name if folders else ONE_CLASS) for file in found]
    return files


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def read_image(file: Path, data: Data | None = None) -> np.ndarray:
    """The pixels of an image file, uint8 (H, W, C), C = 1 for grey and 3 for colour.

    Converted where nothing is lost: a palette to RGB, black and white to grey, an alpha channel
    that hides nothing is dropped. `data` says what else is done: `colour`, with which 16 bits are
    rounded to 8, and `size` with `crop`. Raises UserError for transparency and other modes.
    """
    from PIL import Image

    if file.suffix.lower() not in IMAGE_FORMATS or not file.is_file():
        raise UserError(f"{file}: only png, jpg and bmp images may be here: convert or remove it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=sorted(set(IMAGE_FORMATS.values()))) as image:
                mode, whole = image.mode, _lossless(image)
                if data is not None and data.colour and mode in DEEP:
                    mode, whole = "L", _in_8_bits(whole)
                pixels = np.asarray(whole)
    except (
        OSError,
        SyntaxError,  # what Pillow raises for a broken PNG
        ValueError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        detail = " ".join(str(error).split())
        raise UserError(f"{file}: is no readable image ({detail}): replace or remove it") from None
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if pixels.dtype == np.uint8 and pixels.shape[2] in (2, 4) and mode != "CMYK":
        if pixels[..., -1].min() < 255:
            raise UserError(
                f"{file}: an image may not be transparent, but this one is (mode {mode}): lay it on"
                " a background and save it without alpha"
            )
        pixels = pixels[..., :-1]
    elif mode not in ("1", "L", "RGB", "P", "PA"):
        raise UserError(
            f"{file}: an image must be grey or RGB with 8 bits a channel, but has mode {mode}:"
            " convert it, or say `colour` in the section data"
        )
    return pixels if data is None else _fitted(pixels, data)


def _in_8_bits(image: Image.Image) -> Image.Image:
    from PIL import Image

    values = np.asarray(image).astype(np.float64) / 257  # 65535 / 255
    return Image.fromarray(np.rint(values).clip(0, 255).astype(np.uint8))


def _fitted(pixels: np.ndarray, data: Data) -> np.ndarray:
    """The image with the channels and the size that the section says."""
    from PIL import Image, ImageOps

    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if data.colour:
        image = image.convert(MODES[data.colour])
    if data.shape is not None:
        height, width = data.shape
        if data.crop == "centre":
            image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
        else:
            image = image.resize((width, height), Image.Resampling.LANCZOS)
    fitted = np.asarray(image)
    return fitted.reshape(*fitted.shape[:2], -1)


def _lossless(image: Image.Image) -> Image.Image:
    """The image without a palette; alpha stays, for its values to be looked at."""
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("P", "PA") or "transparency" in image.info:
        opaque = image.mode == "P" and "transparency" not in image.info
        return image.convert("RGB" if opaque else "RGBA")
    return image
