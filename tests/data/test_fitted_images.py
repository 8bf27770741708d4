"""Folders as people have them: mixed sizes, grey and colour, 8 and 16 bits; some files broken."""

from __future__ import annotations

import json
import os
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from photographs import crops
from PIL import Image

from pipeline.data import reference
from pipeline.data.image_folder import read_images
from pipeline.data.prepared import load_images
from pipeline.data.split import Chosen
from pipeline.errors import UserError
from pipeline.paths import Paths
from pipeline.settings.machine import Machine
from pipeline.settings.sections import Data
from pipeline.settings.space import Space, parse_space
from pipeline.stages import prepare

SIZES = [(20, 30), (30, 20), (9, 9), (64, 48)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures whose left half is dark and whose right half is bright, in several sizes."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, (height, width) in enumerate(SIZES * 5):
        pixels = np.full((height, width, 3), 40, np.uint8)
        pixels[:, width // 2 :] = (200, 210, 220)
        Image.fromarray(pixels).save(folder / f"{index:02}.png")
    return folder


def data(folder: Path, **keys: Any) -> Data:
    return Data(name="images", path=str(folder), **keys)


def test_mixed_sizes_are_cut_and_resized_as_is_said(folder: Path) -> None:
    images = read_images(folder, data(folder, size=[8, 12])).train_images
    assert images.shape == (20, 3, 8, 12)
    assert (images[:, :, :, :3] < 60).all()
    assert (images[:, :, :, -3:] > 180).all()
    grey = read_images(folder, data(folder, size=8, colour="grey")).train_images
    assert grey.shape == (20, 1, 8, 8)
    ramp = np.tile(np.arange(40, dtype=np.uint8) * 6, (10, 1))
    Image.fromarray(ramp).save(folder / "00.png")
    cut = read_images(folder, data(folder, size=10, colour="grey")).train_images[0, 0, 5]
    squeezed = read_images(folder, data(folder, size=10, colour="grey", crop="none"))
    assert (int(cut[0]), int(cut[-1])) == (90, 144)  # the middle quarter of the picture
    assert squeezed.train_images[0, 0, 5, 0] < 20
    assert squeezed.train_images[0, 0, 5, -1] > 214


def test_sixteen_bits_are_rounded_where_colour_is_said(folder: Path) -> None:
    deep = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    for file in folder.iterdir():
        Image.fromarray(deep).save(file)
    images = read_images(folder, data(folder, colour="grey")).train_images
    assert np.array_equal(images[0, 0], np.rint(deep / 257).astype(np.uint8))
    assert read_images(folder, data(folder, colour="rgb")).train_images.shape == (20, 3, 64, 64)
    with pytest.raises(UserError, match=r"00.png: .* 8 bits a channel, .* \(20 of 20 files"):
        read_images(folder)


def test_the_first_that_cannot_be_used_is_named_with_their_number(folder: Path) -> None:
    with pytest.raises(UserError, match=r"01.png: .*say `size` and `colour` .*\(15 of 20 files"):
        read_images(folder)
    for broken in ("03.png", "11.png"):
        (folder / broken).write_bytes((folder / broken).read_bytes()[:70])
    with pytest.raises(UserError) as caught:
        read_images(folder, data(folder, size=8))
    message = str(caught.value)
    assert re.search(r"03\.png: is no readable image .* \(2 of 20 files cannot be used\)$", message)
    assert "\n" not in message


def prepared(root: Path, **keys: Any) -> tuple[Paths, dict[str, Any]]:
    """A folder's `prepare`, and its manifest."""
    raw = {"data": {"name": "images", "path": str(root / "pictures"), **keys}}
    space: Space = parse_space("own", raw, "own.yaml")
    paths = Paths(root, "own")
    prepare.run(space, Machine(), paths)
    return paths, json.loads(paths.manifest.read_text())


def test_the_manifest_says_what_was_done(folder: Path) -> None:
    paths, manifest = prepared(folder.parent, size=8, flip=True)
    assert manifest["fitted"] == {"size": [8, 8], "crop": "centre", "colour": None, "flip": True}
    assert manifest["counts"] == {"train": 28, "validation": 2, "test": 4}
    train = load_images(paths.prepare, "train").numpy()
    assert np.array_equal(train[14:], train[:14, :, :, ::-1])
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "00.png")
    for file in folder.iterdir():
        Image.open(file).resize((8, 8)).save(file)
    assert "fitted" not in prepared(folder.parent)[1]


def test_only_folders_are_fitted() -> None:
    for keys in ({"size": 8}, {"colour": "grey"}, {"crop": "none"}):
        with pytest.raises(UserError, match="only `name: images` is read so: remove it"):
            parse_space("x", {"data": {"name": "digits", **keys}}, "x.yaml")
    parse_space("x", {"data": {"name": "digits", "flip": True}}, "x.yaml")


def test_prepared_images_are_in_memory_once_for_all_workers(tmp_path: Path) -> None:
    """Pages of the file: what a process reads of it is no memory of its own."""
    import psutil

    megabytes = 64
    np.save(tmp_path / "train_images.npy", np.ones((megabytes, 1, 1024, 1024), np.uint8))
    process = psutil.Process(os.getpid())
    images = load_images(tmp_path, "train")
    sums = [int(image.sum()) for image in images]
    assert sums == [1024 * 1024] * megabytes
    mapped = [each for each in process.memory_maps(grouped=False) if "train_images" in each.path]
    assert mapped
    assert sum(each.anonymous for each in mapped) == 0
    images[0] = 3  # reaches no other process, and not the file
    assert int(load_images(tmp_path, "train")[0].max()) == 1


def test_prepare_holds_a_few_images_in_memory_however_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "CHUNK", 10 * 3 * 64 * 64)  # values of ten images
    peaks = {count: peak_of_prepare(tmp_path / f"{count}", count) for count in (100, 400)}
    one = 3 * 64 * 64
    assert peaks[400] < peaks[100] + 30 * one  # of 300 images more, and as many mirrored ones


def peak_of_prepare(root: Path, count: int) -> int:
    """Bytes that Python and numpy hold at most while so many RGB images are prepared."""
    folder = root / "pictures"
    folder.mkdir(parents=True)
    for number, pixels in enumerate(crops(count, (64, 64))):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(folder / f"{number:04}.bmp")
    raw = {"data": {"name": "images", "path": str(folder), "flip": True}}
    space, paths = parse_space("sweep", raw, "sweep.yaml"), Paths(root, "sweep")
    prepare.run(space, Machine(), paths)  # what is imported and kept once is there
    tracemalloc.start()
    prepare.run(space, Machine(), paths)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def test_a_split_is_written_as_numpy_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = crops(30, (5, 7))
    rows = np.random.default_rng(0).permutation(30)[:20]
    monkeypatch.setattr(reference, "CHUNK", 3 * 3 * 5 * 7)
    chosen = Chosen(images, np.arange(30), rows, flip=True)
    written, labels = chosen.write_split(tmp_path, "train")
    whole = np.concatenate([images[rows], images[rows][..., ::-1]])
    np.save(tmp_path / "whole.npy", whole)
    assert (tmp_path / "train_images.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    np.testing.assert_array_equal(written, whole)
    assert labels.tolist() == [*rows, *rows]
