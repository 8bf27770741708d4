"""`new`: from a folder of pictures to a search space that runs as it is."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from photographs import photographs
from PIL import Image
from sklearn.datasets import load_digits
from test_pipeline import pipeline

from pipeline.commands.new import new_space
from pipeline.errors import UserError
from pipeline.settings.machine import Machine
from pipeline.settings.space import load_space

COUNT = 64


def save_photographs(folder: Path) -> None:
    """Parts of two photographs in mixed sizes, RGB."""
    draw = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for index in range(COUNT):
        whole = photographs()[index % 2]
        height, width = (int(side) for side in draw.integers(32, 90, 2))
        top, left = int(draw.integers(427 - height)), int(draw.integers(640 - width))
        Image.fromarray(whole[top : top + height, left : left + width]).save(
            folder / f"{index:03}.png"
        )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "search_spaces").mkdir()
    return tmp_path


def test_small_grey_images_get_another_space(root: Path) -> None:
    (root / "digits").mkdir()
    for index, image in enumerate(load_digits().images[:50] >= 8):
        Image.fromarray(image.astype(np.uint8) * 255).save(root / "digits" / f"{index}.png")
    new_space(root, Machine(), "mine", "digits", 3600)
    space = load_space(root, "mine")
    assert space.model.likelihood == "bernoulli"
    assert space.data.size is None
    assert (space.fixed["family"], space.fixed["batch_size"]) == ("mlp", 8)
    short = load_space(root, new_space(root, Machine(), "short", "digits", 1).stem)
    assert short.search.trials * short.search.epochs < space.search.trials * space.search.epochs


def test_mixed_pictures_are_made_alike(root: Path) -> None:
    (root / "mixed").mkdir()
    for index in range(20):
        pixels = photographs()[0][: 100 + index, :120]
        image = Image.fromarray(pixels if index % 2 else pixels[..., 0])
        image.save(root / "mixed" / f"{index}.png")
    new_space(root, Machine(), "mine", "mixed", 60)
    data = load_space(root, "mine").data
    assert (data.size, data.colour, data.flip) == (64, "rgb", True)


def test_what_is_wrong_is_one_line_and_writes_nothing(root: Path) -> None:
    (root / "bad").mkdir()
    (root / "bad" / "a.png").write_bytes(b"no image")
    (root / "search_spaces" / "old.yaml").write_text("data: {name: digits}\n")
    for name, images, message in (
        ("old", "bad", "search_spaces/old.yaml is there already"),
        ("../x", "bad", "a sweep's name is lower-case letters"),
        ("mine", "nowhere", "--images must be a folder, but there is none"),
        ("mine", "bad", "a.png: is no readable image"),
    ):
        with pytest.raises(UserError, match=message):
            new_space(root, Machine(), name, images, 60)
    assert [path.name for path in (root / "search_spaces").iterdir()] == ["old.yaml"]
    wrong = pipeline(root, "new", "mine", "--images", "bad", "--for", "soon")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: new: --for must be a duration such as 90m")


def test_a_folder_of_any_name(root: Path) -> None:
    folder = root / 'it\'s "mine" \\x: # ü'
    folder.mkdir()
    for index in range(20):
        Image.fromarray(np.full((8, 8), index, np.uint8)).save(folder / f"{index}.png")
    new_space(root, Machine(), "mine", folder.name, 60)
    assert load_space(root, "mine").data.path == folder.name
    assert not (root / "runs").exists()  # where two at once would meet


def test_an_image_too_large_to_be_one_is_one_line(root: Path) -> None:
    (root / "bombs").mkdir()
    file = root / "bombs" / "a.png"
    Image.new("L", (1, 1)).save(file)
    content = bytearray(file.read_bytes())
    content[16:24] = (60_000).to_bytes(4, "big") * 2  # IHDR: width, height
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"a.png: is no readable image .*bomb"):
        new_space(root, Machine(), "mine", "bombs", 60)


@pytest.mark.slow
def test_photographs_of_mixed_sizes_go_through_all_stages(root: Path) -> None:
    save_photographs(root / "pictures")
    (root / "machine.yaml").write_text("workers: 2\ndevice: cpu\n")
    written = pipeline(root, "new", "mine", "--images", "pictures", "--for", "5s")
    assert written.returncode == 0, written.stderr
    space = load_space(root, "mine")
    assert (space.data.size, space.fixed["family"]) == (32, "residual")
    assert space.model.likelihood == "discretized_logistic"
    file = root / "search_spaces" / "mine.yaml"
    text = file.read_text()
    for usual, less in (("[16, 24, 32]", "[4, 8]"), ("samples: 50", "samples: 2"), (", tsne", "")):
        assert usual in text
        text = text.replace(usual, less)
    file.write_text(text)
    done = pipeline(root, "run", "mine")
    assert done.returncode == 0, done.stderr
    runs = root / "runs" / "mine"
    manifest = json.loads((runs / "prepare" / "manifest.json").read_text())
    assert manifest["shape"] == [3, 32, 32]
    assert "bits_per_dim" in json.loads((runs / "evaluate" / "metrics.json").read_text())
    assert (runs / "render" / "report.html").exists()
