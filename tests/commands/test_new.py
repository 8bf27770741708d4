"""`new`: from a folder of pictures to a search space that runs as it is."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from blows import family as all_of
from own_models import EXAMPLE, FAMILY, FILE
from photographs import photographs
from PIL import Image
from sklearn.datasets import load_digits
from test_own_model import loads_alone
from test_pipeline import ROOT, pipeline

from pipeline.commands.new import new_space
from pipeline.errors import UserError
from pipeline.settings.machine import Machine
from pipeline.settings.space import load_space

COUNT = 64
FIXTURES = Path(__file__).parents[1] / "fixtures"


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


def test_a_family_of_ones_own_is_written_and_timed(root: Path) -> None:
    save_photographs(root / "pictures")
    (root / FILE).write_text(EXAMPLE)
    text = new_space(root, Machine(), "mine", "pictures", 60, FAMILY).read_text()
    assert "  width: 32 " in text
    assert "# ResidualVAE: channels of all feature maps; integers ≥ 1, ≤ 1024" in text
    assert "filters" not in text
    assert load_space(root, "mine").fixed["family"] == FAMILY
    (root / "other.py").write_text((FIXTURES / "faulty" / "faulty.py").read_text())
    for family, message in (
        ("my_models.py:Other", "^new: --family: my_models.py: has no class Other: its classes"),
        ("none.py:Other", "^new: --family: none.py: there is no such file"),
        ("Other", "parameters.family: must be .* but got 'Other': or name your own as FILE.py"),
        ("other.py:InPlace", "^other.py:InPlace .*: the encoder changes its input in place"),
    ):
        with pytest.raises(UserError, match=message):
            new_space(root, Machine(), "other", "pictures", 60, family)
    assert [path.name for path in (root / "search_spaces").iterdir()] == ["mine.yaml"]


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


@pytest.mark.slow
def test_a_model_of_ones_own_gives_the_same_on_any_workers_and_after_kills(root: Path) -> None:
    """From a file and a folder of photographs to a model that loads without either."""
    save_photographs(root / "pictures")
    (root / FILE).write_text(EXAMPLE)
    command = ["new", "own", "--images", "pictures", "--for", "1s", "--family", FAMILY]
    written = pipeline(root, *command)
    assert written.returncode == 0, written.stderr
    file = root / "search_spaces" / "own.yaml"
    text = file.read_text()
    for pattern, small in (
        (r"width: 32 ", "width: {choices: [4, 8]} "),
        (r"latent_dim: .*", "latent_dim: 4"),
        (r"trials: .*", "trials: 3"),
        (r"iw_samples: .*", "iw_samples: 2, nelbo_samples: 1}"),
        (r"retrain: .*", "retrain: {top: 1, seeds: 2, epochs: 2}"),
        (r"render: .*", "render: {projections: [pca], points: 50, images: 2}"),
    ):
        text, found = re.subn(pattern, small, text)
        assert found == 1, pattern
    file.write_text(text)
    outputs = []
    for workers, kills in ((1, ()), (4, ("search own: 1/", "retrain own: 1/"))):
        (root / "machine.yaml").write_text(f"workers: {workers}\ndevice: cpu\n")
        shutil.rmtree(root / "runs", ignore_errors=True)
        for line in kills:
            killed_after(root, line)
        done = pipeline(root, "run", "own")
        assert done.returncode == 0, done.stderr
        base = root / "runs" / "own"
        files = (path for path in sorted(base.rglob("*")) if path.is_file())
        outputs.append({str(path.relative_to(base)): path.read_bytes() for path in files})
    assert outputs[0] == outputs[1]
    (root / FILE).unlink()
    loads_alone(root, root / "elsewhere", (3, 32, 32))


def killed_after(root: Path, line: str) -> None:
    """Runs the sweep, and kills command and workers once it has said so."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": "none"}
    with subprocess.Popen(
        [sys.executable, "-m", "pipeline", "run", "own"],
        cwd=root,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as command:
        assert command.stderr is not None
        assert any(said.startswith(line) for said in command.stderr)
        for process in all_of(command.pid):
            with suppress(psutil.NoSuchProcess):
                process.kill()
    assert command.returncode == -signal.SIGKILL
