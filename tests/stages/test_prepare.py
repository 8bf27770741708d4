"""The splits are disjoint and repeatable, and the reference figures are what they claim."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import entr, xlog1py, xlogy

from pipeline import seeds
from pipeline.data import reference, sources
from pipeline.data.split import SPLITS
from pipeline.errors import UserError
from pipeline.files import sha256_of
from pipeline.paths import Paths
from pipeline.settings.machine import Machine
from pipeline.settings.space import parse_space
from pipeline.stages import prepare


def run(root: Path, **data: Any) -> Path:
    """Prepares data in the checkout `root`; returns the stage's folder."""
    space = parse_space("sweep", {"data": data}, "sweep.yaml")
    paths = Paths(root, "sweep")
    prepare.run(space, Machine(), paths)
    return paths.prepare


def read(folder: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}


def numbered(path: Path, count: int, **more: np.ndarray) -> str:
    """Writes `count` images which all differ: image i is filled with i, and so is its label."""
    images = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None], (count, 5, 6))
    np.savez(path, images=images, labels=np.arange(count), **more)  # type: ignore[arg-type]
    return str(path)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("digits"), name="digits")


def test_digits_end_to_end(digits: Path) -> None:
    manifest = json.loads((digits / "manifest.json").read_text())
    arrays = read(digits)
    assert manifest["data"] == "digits"
    assert manifest["shape"] == [1, 8, 8]
    assert manifest["classes"] == list("0123456789")
    assert manifest["levels"] == 17
    assert manifest["counts"] == {"train": 1294, "validation": 144, "test": 359}
    for name, count in manifest["counts"].items():
        images, labels = arrays[f"{name}_images"], arrays[f"{name}_labels"]
        assert images.shape == (count, 1, 8, 8)
        assert images.dtype == np.uint8
        assert images.flags.c_contiguous
        assert labels.shape == (count,)
        assert labels.dtype == np.int64
        assert manifest["class_counts"][name] == np.bincount(labels).tolist()
    assert manifest["files"] == {path.name: sha256_of(path) for path in digits.glob("*.npy")}
    assert manifest["sha256"] == seeds.digest(manifest["files"])


def test_two_clones_produce_the_same_bytes(digits: Path, tmp_path: Path) -> None:
    again = run(tmp_path, name="digits")
    first = {path.name: path.read_bytes() for path in digits.iterdir()}
    assert {path.name: path.read_bytes() for path in again.iterdir()} == first
    assert len(first) == 9
    for root in (digits.parents[2], tmp_path):
        assert str(root).encode() not in first["manifest.json"]


def test_reference_figures_equal_their_definitions(digits: Path) -> None:
    """Per image and pixel in float64, against the figures from integer sums."""
    manifest = json.loads((digits / "manifest.json").read_text())
    scaled = {name: np.asarray(array) / 255 for name, array in read(digits).items()}
    mean = scaled["train_images"].mean(axis=0)
    margin = 0.5 / (255 * len(scaled["train_images"]))
    p = np.clip(mean, margin, 1 - margin)
    for name in ("validation", "test"):
        x = scaled[f"{name}_images"]
        nelbo = -(xlogy(x, p) + xlog1py(1 - x, -p)).sum(axis=(1, 2, 3)).mean()
        floor = (entr(x) + entr(1 - x)).sum(axis=(1, 2, 3)).mean()
        mse = ((x - mean) ** 2).mean()
        bernoulli = manifest["bernoulli"]
        assert bernoulli["mean_image_nelbo_nats"][name] == pytest.approx(nelbo, rel=1e-12)
        assert bernoulli["entropy_floor_nats"][name] == pytest.approx(floor, rel=1e-12)
        assert manifest["mean_image_mse_per_pixel"][name] == pytest.approx(mse, rel=1e-12)
        assert floor < nelbo < 64 * np.log(2)


def test_sums_do_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 3, 4, 5), dtype=np.uint8)
    whole = reference.pixel_sums(images)
    monkeypatch.setattr(reference, "CHUNK", 7 * 60)
    chunked = reference.pixel_sums(images)
    np.testing.assert_array_equal(whole.values, images.sum(axis=0, dtype=np.int64))
    np.testing.assert_array_equal(whole.squares, (images.astype(np.int64) ** 2).sum(axis=0))
    for name in ("values", "squares", "histogram"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(chunked, name))


def test_the_mean_image_costs_finitely_on_pixels_never_seen() -> None:
    black, white = (np.full((4, 1, 2, 2), value, np.uint8) for value in (0, 255))
    train, other = reference.pixel_sums(black), reference.pixel_sums(white)
    assert reference.mean_image_nelbo_nats(train, other) == pytest.approx(4 * np.log(2 * 255 * 4))
    assert reference.mean_image_nelbo_nats(other, train) == pytest.approx(4 * np.log(2 * 255 * 4))
    assert reference.entropy_floor_nats(other) == 0
    assert reference.mean_image_mse_per_pixel(train, other) == 1


def test_splits_are_disjoint_and_cover_all_images(tmp_path: Path) -> None:
    folder = run(tmp_path, name="npz", path=numbered(tmp_path / "own.npz", 200))
    arrays = read(folder)
    members = {name: arrays[f"{name}_labels"].tolist() for name in SPLITS}
    assert [len(members[name]) for name in SPLITS] == [144, 16, 40]
    assert sorted(itertools.chain(*members.values())) == list(range(200))
    for name in SPLITS:
        np.testing.assert_array_equal(arrays[f"{name}_images"][:, 0, 2, 3], members[name])
    # A source sorted by class gives mixed splits, from the first image on.
    assert members["train"] != sorted(members["train"])


def test_each_seed_moves_its_own_split_only(tmp_path: Path) -> None:
    path = numbered(tmp_path / "own.npz", 100)

    def members(**data: Any) -> dict[str, set[int]]:
        folder = run(tmp_path, name="npz", path=path, **data)
        return {name: set(read(folder)[f"{name}_labels"].tolist()) for name in SPLITS}

    base = members()
    other_validation = members(validation={"seed": 1})
    other_test = members(test={"seed": 1, "fraction": 0.3})
    assert other_validation["test"] == base["test"]
    assert other_validation["validation"] != base["validation"]
    assert len(other_test["test"]) == 30
    assert other_test["test"] != base["test"]


def test_own_test_images_stay_whole_and_in_order(tmp_path: Path) -> None:
    test = np.full((3, 5, 6), 255, np.uint8)
    path = numbered(tmp_path / "own.npz", 50, test_images=test, test_labels=np.array([60, 2, 1]))
    folder = run(tmp_path, name="npz", path=path, limit=20)
    arrays, manifest = read(folder), json.loads((folder / "manifest.json").read_text())
    assert arrays["test_labels"].tolist() == [50, 2, 1]  # indices of the classes 60, 2, 1
    assert (arrays["test_images"] == 255).all()
    kept = [*arrays["train_labels"], *arrays["validation_labels"]]
    assert sorted(kept) == list(range(20))  # the first 20 of the set, then split
    assert manifest["counts"] == {"train": 18, "validation": 2, "test": 3}
    assert manifest["split"] == {
        "test": "the set's own",
        "limit": 20,
        "hold_out": None,
        "validation": {"fraction": 0.1, "seed": 42},
    }


@pytest.mark.parametrize(
    ("count", "data", "reason"),
    [
        (3, {}, r"data\.validation\.fraction: .* 0\.1 of 2 is 0"),
        (1, {}, r"data\.test\.fraction: .* 0\.2 of 1 is 0"),
        (10, {"validation": {"fraction": 0.9}}, "at least 2 images must be left for training"),
        (10, {"test": {"fraction": 0.99}}, r"0\.99 of 10 is 10"),
        (10, {"limit": 9}, "number of training images, 8, but got 9"),
    ],
)
def test_too_few_images(tmp_path: Path, count: int, data: dict[str, Any], reason: str) -> None:
    path = numbered(tmp_path / "own.npz", count)
    with pytest.raises(UserError, match=reason):
        run(tmp_path, name="npz", path=path, **data)
    assert not (tmp_path / "runs" / "sweep" / "prepare").exists()


def test_a_test_split_of_a_set_with_test_images_is_refused(tmp_path: Path) -> None:
    path = numbered(tmp_path / "own.npz", 50, test_images=np.zeros((3, 5, 6), np.uint8),
                    test_labels=np.zeros(3, np.int64))  # fmt: skip
    with pytest.raises(UserError, match=r"data\.test: npz has test images of its own"):
        run(tmp_path, name="npz", path=path, test={"fraction": 0.5})


def test_a_failure_leaves_the_earlier_output_alone(digits: Path) -> None:
    before = sha256_of(digits / "manifest.json")
    with pytest.raises(UserError):
        run(digits.parents[2], name="digits", limit=100_000)
    assert sha256_of(digits / "manifest.json") == before
    assert [path.name for path in digits.parent.iterdir()] == ["prepare"]


def test_samples_of_many_oddly_named_colour_classes(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 6, 5, 3), dtype=np.uint8)
    labels = np.array([f"$x_{index % 30}$ {'long ' * 9}" for index in range(60)])
    np.savez(tmp_path / "own.npz", images=images, labels=labels)
    folder = run(tmp_path, name="npz", path="own.npz")
    assert (folder / "samples.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.skipif(
    not (sources.DEBIAN / "fashion-mnist").is_dir(),
    reason="needs real Fashion-MNIST: install the system package dataset-fashion-mnist",
)
def test_real_fashion_mnist_has_the_published_figures(tmp_path: Path) -> None:
    folder = run(tmp_path, name="fashion-mnist")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["counts"] == {"train": 54_000, "validation": 6_000, "test": 10_000}
    assert manifest["class_counts"]["test"] == [1000] * 10
    assert manifest["classes"][0] == "T-shirt/top"
    bernoulli = manifest["bernoulli"]
    assert bernoulli["mean_image_nelbo_nats"]["test"] == pytest.approx(385.02, abs=0.01)
    assert bernoulli["entropy_floor_nats"]["test"] == pytest.approx(189.858, abs=0.001)
    assert manifest["mean_image_mse_per_pixel"]["test"] == pytest.approx(0.0866, abs=0.0001)


def test_a_class_held_out_is_in_no_split(digits: Path, tmp_path: Path) -> None:
    folder = run(tmp_path, name="digits", hold_out="9")
    whole, kept = read(digits), read(folder)
    for name in SPLITS:
        others = whole[f"{name}_labels"] != 9
        assert np.array_equal(kept[f"{name}_images"], whole[f"{name}_images"][others])
        assert not (kept[f"{name}_labels"] == 9).any()
    nines = whole["test_images"][whole["test_labels"] == 9]
    assert np.array_equal(kept["held_out_images"], nines)


def test_an_unknown_class_cannot_be_held_out(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must be one of 0, 1, .* but got ten"):
        run(tmp_path, name="digits", hold_out="ten")
