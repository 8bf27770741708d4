"""Every format gives uint8 (N, C, H, W) and labels; what does not fit is one line."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data import readers
from pipeline.data.image_folder import read_images
from pipeline.errors import UserError
from pipeline.files import sha256_of

GREY = np.random.default_rng(0).integers(0, 256, (6, 8, 9), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (6, 8, 9, 3), dtype=np.uint8)


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def npz(tmp_path: Path, **arrays: np.ndarray) -> Path:
    path = tmp_path / "own.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def save_image(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


# IDX


@pytest.mark.parametrize("array", [GREY, np.arange(5, dtype=np.uint8)])
def test_idx_is_read(array: np.ndarray) -> None:
    np.testing.assert_array_equal(readers.read_idx(idx(array), "file"), array)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "starts with 00 00 08"),
        (b"\0\0\x0d\1" + struct.pack(">If", 1, 0.5), "starts with 00 00 08"),  # floats
        (idx(GREY)[:9], "header is cut off"),
        (idx(GREY)[:-1], "holds 432 values, but got 431"),
        (idx(GREY) + b"\0", "holds 432 values, but got 433"),
    ],
)
def test_broken_idx(content: bytes, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        readers.read_idx(content, "file")


# npz


def test_all_layouts_become_channels_first(tmp_path: Path) -> None:
    grey = readers.read_npz(npz(tmp_path, images=GREY)).train_images
    last = readers.read_npz(npz(tmp_path, images=COLOUR)).train_images
    first = readers.read_npz(npz(tmp_path, data=COLOUR.transpose(0, 3, 1, 2))).train_images
    np.testing.assert_array_equal(grey, GREY[:, None])
    np.testing.assert_array_equal(last, COLOUR.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(first, last)
    assert all(array.flags.c_contiguous for array in (grey, last, first))


def test_labels_become_indices_of_classes_of_both_splits(tmp_path: Path) -> None:
    path = npz(
        tmp_path,
        images=GREY,
        labels=np.array([7, 3, 3, 7, 7, 3], np.uint64),
        test_images=GREY[:2],
        test_labels=np.array([5, 3]),
    )
    raw = readers.read_npz(path)
    assert raw.classes == ["3", "5", "7"]
    assert raw.train_labels.tolist() == [2, 0, 0, 2, 2, 0]
    assert raw.test_labels is not None
    assert raw.test_labels.tolist() == [1, 0]
    assert raw.train_labels.dtype == raw.test_labels.dtype == np.int64
    assert raw.source_sha256 == {"own.npz": sha256_of(path)}


def test_text_labels_name_the_classes(tmp_path: Path) -> None:
    labels = np.array(["cat", "dog", "cat", "cat", "dog", "dog"])
    raw = readers.read_npz(npz(tmp_path, images=GREY, labels=labels))
    assert raw.classes == ["cat", "dog"]
    assert raw.train_labels.tolist() == [0, 1, 0, 0, 1, 1]


def test_unlabelled_images_are_one_class(tmp_path: Path) -> None:
    raw = readers.read_npz(npz(tmp_path, images=GREY, test_images=GREY))
    assert raw.classes == ["all"]
    assert raw.train_labels.tolist() == [0] * 6


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({}, "the array `images` or `data`"),
        ({"images": GREY, "data": GREY}, "one of the two"),
        ({"images": GREY, "lables": GREY[:, 0, 0]}, "unknown array 'lables'"),
        ({"images": GREY / 255}, "must be 8-bit values .* but got float64"),
        ({"images": GREY[0]}, r"but got \(8, 9\)"),
        ({"images": GREY[:0]}, r"not empty, but got \(0, 8, 9\)"),
        ({"images": np.zeros((2, 9, 9, 9), np.uint8)}, "exactly one of the axes 1 and 3"),
        ({"images": np.zeros((2, 3, 9, 3), np.uint8)}, "exactly one of the axes 1 and 3"),
        ({"images": GREY, "labels": np.arange(5)}, r"\(6,\), but got \(5,\)"),
        ({"images": GREY, "labels": np.ones(6)}, "integers or text, but got float64"),
        ({"images": GREY, "test_labels": np.arange(6)}, "needs `test_images`"),
        ({"images": GREY, "labels": np.arange(6), "test_images": GREY}, "go together"),
        ({"images": GREY, "test_images": COLOUR}, "must have the shape of the others"),
    ],
)
def test_bad_arrays_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        readers.read_npz(npz(tmp_path, **arrays))


def test_files_that_are_no_npz_are_refused(tmp_path: Path) -> None:
    path = npz(tmp_path, images=GREY)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[200] ^= 1  # the checksum of the archive finds it
    plain = pickle.dumps({"images": GREY})
    for content in (b"", b"text", whole[: len(whole) // 2], bytes(flipped), plain):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"must be an npz|cannot be read as npz") as caught:
            readers.read_npz(path)
        assert "\n" not in str(caught.value)
    np.save(path.with_suffix(".npy"), GREY)
    path.write_bytes(path.with_suffix(".npy").read_bytes())
    with pytest.raises(UserError, match="must be an npz file"):
        readers.read_npz(path)


def test_object_arrays_are_never_unpickled(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read as npz"):
        readers.read_npz(npz(tmp_path, images=GREY, labels=np.array([None] * 6)))


# Image folders


def test_class_folders(tmp_path: Path) -> None:
    save_image(tmp_path / "dogs" / "a.png", COLOUR[0])
    save_image(tmp_path / "cats" / "b.BMP", COLOUR[1])
    save_image(tmp_path / "cats" / "a.png", COLOUR[2])
    (tmp_path / "cats" / ".DS_Store").write_bytes(b"\0")
    raw = read_images(tmp_path)
    assert raw.classes == ["cats", "dogs"]
    assert raw.train_labels.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(raw.train_images, COLOUR[[2, 1, 0]].transpose(0, 3, 1, 2))
    assert raw.train_images.flags.c_contiguous
    assert raw.test_images is None


def test_flat_folder_of_grey_images_is_one_class(tmp_path: Path) -> None:
    for index, pixels in enumerate(GREY):
        save_image(tmp_path / f"{index}.png", pixels)
    raw = read_images(tmp_path)
    assert raw.classes == ["all"]
    np.testing.assert_array_equal(raw.train_images, GREY[:, None])


def test_jpeg_is_read(tmp_path: Path) -> None:
    save_image(tmp_path / "flat.jpg", np.full((16, 16), 200, np.uint8))
    assert abs(int(read_images(tmp_path).train_images.mean()) - 200) <= 1


def test_the_source_hash_follows_content_and_names(tmp_path: Path) -> None:
    hashes = set()
    for folder, name, pixels in (("a", "x", 0), ("b", "y", 0), ("c", "x", 1), ("d", "x", 0)):
        save_image(tmp_path / folder / f"{name}.png", GREY[pixels])
        hashes.add(read_images(tmp_path / folder).source_sha256["images"])
    assert len(hashes) == 3  # d repeats a


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (GREY[0, :-1], r"\(8, 9, 1\), but got \(7, 9, 1\)"),
        (COLOUR[0], r"\(8, 9, 1\), but got \(8, 9, 3\)"),
        (np.zeros((8, 9, 4), np.uint8), r"may not be transparent, but this one is \(mode RGBA\)"),
        (np.zeros((8, 9), np.uint16), "8 bits a channel, but has mode I;16: convert it"),
    ],
)
def test_images_of_another_kind_are_named(tmp_path: Path, pixels: np.ndarray, reason: str) -> None:
    save_image(tmp_path / "a.png", GREY[0])
    odd = save_image(tmp_path / "b.png", pixels)
    with pytest.raises(UserError, match=reason) as caught:
        read_images(tmp_path)
    assert str(caught.value).startswith(str(odd))


def test_what_loses_nothing_is_converted(tmp_path: Path) -> None:
    """A palette, an alpha channel that hides nothing, black and white: as the plain image."""
    black_and_white = np.where(GREY[0] > 127, 255, 0).astype(np.uint8)
    opaque = np.dstack([COLOUR[0], np.full((8, 9), 255, np.uint8)])
    save_image(tmp_path / "grey" / "1.png", black_and_white > 0)  # one bit a pixel
    save_image(tmp_path / "grey" / "2.png", np.dstack([GREY[0], opaque[..., 3]]))  # LA
    grey = read_images(tmp_path / "grey").train_images
    np.testing.assert_array_equal(grey[:, 0], [black_and_white, GREY[0]])
    save_image(tmp_path / "rgb" / "1.png", opaque)
    flat = (COLOUR[1] // 128 * 255).astype(np.uint8)  # eight colours
    palette = Image.fromarray(flat).quantize(colors=8)
    assert palette.mode == "P"
    palette.save(tmp_path / "rgb" / "2.png")
    rgb = read_images(tmp_path / "rgb").train_images
    np.testing.assert_array_equal(rgb.transpose(0, 2, 3, 1), [COLOUR[0], flat])


def test_transparent_palettes_and_cmyk_are_named(tmp_path: Path) -> None:
    palette = Image.fromarray(COLOUR[0]).quantize(colors=8)
    palette.save(tmp_path / "a.png", transparency=0)
    with pytest.raises(UserError, match=r"a\.png: an image may not be transparent"):
        read_images(tmp_path)
    (tmp_path / "a.png").unlink()
    Image.fromarray(COLOUR[0]).convert("CMYK").save(tmp_path / "a.jpg")
    with pytest.raises(UserError, match=r"a\.jpg: .* but has mode CMYK: convert it"):
        read_images(tmp_path)


def test_train_and_test_folders(tmp_path: Path) -> None:
    for split, names in (("train", ["cat", "dog"]), ("test", ["dog"])):
        for index, name in enumerate(names):
            save_image(tmp_path / split / name / "a.jpg", COLOUR[index])
            save_image(tmp_path / split / name / "b.png", COLOUR[index + 1])
    raw = read_images(tmp_path)
    assert raw.classes == ["cat", "dog"]
    assert raw.train_labels.tolist() == [0, 0, 1, 1]
    assert raw.test_labels is not None
    assert raw.test_labels.tolist() == [1, 1]
    assert raw.test_images is not None
    np.testing.assert_array_equal(raw.test_images[1], COLOUR[1].transpose(2, 0, 1))
    assert raw.train_images.shape == (4, 3, 8, 9)


def test_flat_train_and_test_folders_are_one_class(tmp_path: Path) -> None:
    save_image(tmp_path / "Train" / "a.png", GREY[0])
    save_image(tmp_path / "Test" / "a.png", GREY[1])
    raw = read_images(tmp_path)
    assert raw.classes == ["all"]
    assert raw.test_images is not None
    np.testing.assert_array_equal(raw.test_images, GREY[1:2, None])


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (["train/a.png", "test/a.png", "val/a.png"], "val: beside `train` and `test` there may be"),
        (["train/a.png"], "go together, but test is missing"),
        (["test/a.png"], "go together, but train is missing"),
        (["train/a.png", "test/a.png", "a.png"], "has both: sort them"),
        (["train/cat/a.png", "test/dog/a.png"], "its class 'dog' has no training images"),
        (["train/cat/a.png", "test/a.png"], "its class 'all' has no training images"),
    ],
)
def test_train_and_test_folders_without_order(
    tmp_path: Path, files: list[str], reason: str
) -> None:
    for file in files:
        save_image(tmp_path / file, GREY[0])
    with pytest.raises(UserError, match=reason):
        read_images(tmp_path)


def test_files_that_are_no_images_are_named(tmp_path: Path) -> None:
    good = save_image(tmp_path / "a.png", np.tile(GREY[0], (20, 20)))
    content = good.read_bytes()
    for name, bad in (
        ("b.png", content[: len(content) // 2]),
        ("b.png", content[:20]),
        ("b.jpg", b"no image"),
        ("b.png", b""),
        ("notes.txt", b"hello"),
    ):
        (tmp_path / name).write_bytes(bad)
        with pytest.raises(UserError) as caught:
            read_images(tmp_path)
        assert str(caught.value).startswith(str(tmp_path / name))
        (tmp_path / name).unlink()


def test_folders_without_order_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is empty"):
        read_images(tmp_path)
    (tmp_path / "cats").mkdir()
    with pytest.raises(UserError, match=r"cats: must hold .* is empty"):
        read_images(tmp_path)
    save_image(tmp_path / "a.png", GREY[0])
    with pytest.raises(UserError, match="has both"):
        read_images(tmp_path)
    (tmp_path / "a.png").unlink()
    (tmp_path / "cats" / "kittens").mkdir()
    with pytest.raises(UserError, match="kittens: only png, jpg and bmp"):
        read_images(tmp_path)


# Pickles


def test_a_pickle_is_converted_once_by_its_content(tmp_path: Path) -> None:
    path, downloads = tmp_path / "own.pkl", tmp_path / "downloads"
    path.write_bytes(pickle.dumps({"data": GREY, "labels": np.array([1, 0, 1, 1, 0, 0])}))
    raw = readers.read_pickle(path, downloads)
    np.testing.assert_array_equal(raw.train_images, GREY[:, None])
    assert raw.train_labels.tolist() == [1, 0, 1, 1, 0, 0]
    (kept,) = (downloads / "pickle").iterdir()
    assert kept.name == f"{sha256_of(path)}.npz"
    assert raw.source_sha256 == {"own.pkl": sha256_of(path)}
    written = kept.stat().st_mtime_ns
    readers.read_pickle(path, downloads)
    assert kept.stat().st_mtime_ns == written


def test_a_refused_pickle_leaves_nothing_and_is_named(tmp_path: Path) -> None:
    path, downloads = tmp_path / "own.pkl", tmp_path / "downloads"
    path.write_bytes(pickle.dumps({"data": GREY})[:-9])
    with pytest.raises(UserError, match=r"own\.pkl"):
        readers.read_pickle(path, downloads)
    assert not list((downloads / "pickle").iterdir())
    path.write_bytes(pickle.dumps({"data": GREY, "labels": [1]}))
    with pytest.raises(UserError, match=r"own\.pkl: there must be one label an image"):
        readers.read_pickle(path, downloads)
