"""Own data that cannot be used, given to `prepare` and `check`: one line, exit code 2, no file."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from rights import as_a_person
from worked import Worked

GREY = np.random.default_rng(0).integers(0, 256, (40, 8, 9), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (40, 8, 9, 3), dtype=np.uint8)
LABELS = np.arange(40) % 2


def saved(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def zipped(content: bytes, name: str = "images.npy") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return file.getvalue()


def head(text: str, content: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """An npy file with this header."""
    header = text.encode() + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + content


def described(shape: object, dtype: str = "|u1", content: bytes = b"") -> bytes:
    return zipped(
        head(f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}", content)
    )


def locked(content: bytes) -> bytes:
    """A zip whose entries say that they are encrypted."""
    changed = bytearray(content)
    for start, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        changed[changed.index(start) + offset] |= 1
    return bytes(changed)


GOOD = saved(images=GREY, labels=LABELS)
NPZ: dict[str, bytes] = {
    "empty": b"",
    "text": b"images, labels\n1, 2\n",
    "cut off": GOOD[: len(GOOD) // 2],
    "without its directory": GOOD[:-30],
    "a flipped byte": GOOD[:300] + bytes([GOOD[300] ^ 4]) + GOOD[301:],
    "encrypted": locked(GOOD),
    "npy": head("{'descr': '|u1', 'fortran_order': False, 'shape': (1, 8, 9), }", bytes(72)),
    "pickle": pickle.dumps({"images": GREY}),
    "zip of text": zipped(b"hello", "images.txt"),
    "zip of nothing": zipped(b"", "images.npy"),
    "no arrays": saved(),
    "pickled labels": saved(images=GREY, labels=np.array([{}] * 40)),
    "pickled images": saved(images=np.array([None] * 40)),
    "a header that is code": zipped(head("__import__('os').abort()")),
    "a header without end": zipped(head("{'descr': '|u1', ")),
    "a header of another version": zipped(b"\x93NUMPY\x09\x00" + bytes(80)),
    "a header of numbers": zipped(head("{1: 2}")),
    "bomb": zipped(head("{'descr': '|u1', 'fortran_order': False, 'shape': (9, 9, 9), }",
                        bytes(50_000_000))),
    "claims 80 TB": described((10**7, 1000, 8000)),
    "claims more than there can be": described((2**62, 2**62, 2**62)),
    "negative": described((-1, 8, 9), content=bytes(72)),
    "shape of text": described(("a", "b"), content=bytes(72)),
    "shape of floats": described((1.5, 8, 9), content=bytes(72)),
    "a dtype that there is not": described((1, 8, 9), "|z9", bytes(72)),
    "floats": saved(images=GREY / 255),
    "float32": saved(images=(GREY / 255).astype(np.float32)),
    "nan": saved(images=np.full((40, 8, 9), np.nan)),
    "16 bits": saved(images=GREY.astype(np.uint16)),
    "signed": saved(images=GREY.astype(np.int8)),
    "boolean": saved(images=GREY > 127),
    "complex": saved(images=GREY.astype(complex)),
    "dates": saved(images=GREY.astype("M8[s]")),
    "text images": saved(images=GREY.astype(str)),
    "bytes": saved(images=GREY.astype("S1")),
    "records": saved(images=np.zeros((40, 8, 9), [("a", "u1"), ("b", "u1")])),
    "no dimension": saved(images=np.uint8(3)),
    "one dimension": saved(images=GREY.ravel()),
    "flat images": saved(images=GREY.reshape(40, 72)),
    "five dimensions": saved(images=GREY[:, None, None]),
    "no image": saved(images=GREY[:0]),
    "no pixel": saved(images=GREY[:, :, :0]),
    "too many channels": saved(images=np.zeros((4, 9, 9, 9), np.uint8)),
    "channels on both sides": saved(images=np.zeros((4, 3, 9, 3), np.uint8)),
    "two names": saved(images=GREY, data=GREY),
    "a wrong name": saved(imgs=GREY),
    "a name of another script": saved(**{"imаges": GREY}),
    "a name of lines": saved(**{"a\nb": GREY}),
    "a long name": saved(**{"x" * 5000: GREY}),
    "fewer labels": saved(images=GREY, labels=LABELS[:-1]),
    "more labels": saved(images=GREY, labels=np.arange(41)),
    "labels of two dimensions": saved(images=GREY, labels=np.eye(40, dtype=int)),
    "labels that are floats": saved(images=GREY, labels=LABELS + 0.5),
    "labels that are nan": saved(images=GREY, labels=np.full(40, np.nan)),
    "labels that are bytes": saved(images=GREY, labels=LABELS.astype("S1")),
    "labels that are dates": saved(images=GREY, labels=LABELS.astype("M8[D]")),
    "test labels alone": saved(images=GREY, test_labels=LABELS),
    "test images without labels": saved(images=GREY, labels=LABELS, test_images=GREY),
    "test images of another size": saved(images=GREY, test_images=GREY[:, 1:]),
    "test images of another kind": saved(images=GREY, test_images=COLOUR),
    "no test image": saved(images=GREY, test_images=GREY[:0]),
    "one image": saved(images=GREY[:1]),
    "two images": saved(images=GREY[:2]),
}  # fmt: skip

UNSEEN = ("a flipped byte", "encrypted", "one image", "two images")  # by heads alone
BOTH = ("prepare", "check")


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    sum_ = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + sum_


def claimed(width: int, height: int, content: bytes = b"") -> bytes:
    """A PNG that says that it has so many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(content))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


FINE = png(GREY[0])
IMAGES: dict[str, tuple[str, bytes]] = {  # one more file in a folder of good ones
    "empty": ("z.png", b""),
    "text": ("z.png", b"hello"),
    "notes": ("z.txt", b"hello"),
    "no suffix": ("z", FINE),
    "gif": ("z.gif", b"GIF89a"),
    "head alone": ("z.png", FINE[:33]),
    "cut off": ("z.png", FINE[:-40]),
    "wrong sum": ("z.png", FINE[:60] + bytes([FINE[60] ^ 1]) + FINE[61:]),
    "another format inside": ("z.png", b"\x00\x00\x01\x00" + FINE),
    "tiff inside": ("z.jpg", b"II*\x00" + bytes(100)),
    "svg": ("z.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "jpeg cut off": ("z.jpg", b"\xff\xd8\xff\xe0\x00\x10JFIF"),
    "bmp cut off": ("z.bmp", b"BM" + bytes(20)),
    "bomb": ("z.png", claimed(60_000, 60_000)),
    "large bomb": ("z.png", claimed(2**31 - 1, 2**31 - 1)),
    "less data than pixels": ("z.png", claimed(9, 8, b"\0" * 12)),
    "no width": ("z.png", claimed(0, 8)),
    "larger": ("z.png", png(np.zeros((9, 9), np.uint8))),
    "turned": ("z.png", png(GREY[0].T.copy())),
    "colour": ("z.png", png(COLOUR[0])),
    "transparent": ("z.png", png(np.zeros((8, 9, 4), np.uint8))),
    "16 bits": ("z.png", png(GREY[0].astype(np.uint16))),
    "a folder's name": ("z.png/a.png", FINE),
    "a class beside images": ("cats/a.png", FINE),
    "train without test": ("train/a.png", FINE),
}

PICKLES: dict[str, object] = {
    "a list": [GREY],
    "a number": 3,
    "an array": GREY,
    "nothing": {},
    "numbers as names": {0: GREY},
    "another name": {"pixels": GREY},
    "floats": {"images": GREY / 255},
    "objects": {"images": np.array([None])},
    "a call": {"images": os.abort},
    "deep": {"images": [[[[]]]]},
    "fewer labels": {"data": GREY, "labels": [1]},
}


@pytest.fixture
def own(tmp_path: Path) -> Worked:
    """A sweep of own data, of which there are none yet."""
    (tmp_path / "clone" / "search_spaces").mkdir(parents=True)
    (tmp_path / "clone" / "runs").mkdir()
    (tmp_path / "clone" / "machine.yaml").write_text("tracking: none\ndevice: cpu\n")
    return Worked(tmp_path / "clone")


def refused(own: Worked, kind: str, path: str, *verbs: str) -> list[str]:
    """The line with which each command refuses the data; nothing was made of them."""
    space = {"data": {"name": kind, "path": path}, "parameters": {"hidden": [8]}}
    (own.root / "search_spaces" / "tiny.yaml").write_text(yaml.safe_dump(space))
    lines = []
    for verb in verbs or ("prepare",):
        code, out, err = own.give(verb, "tiny")
        assert (code, err.count("\n")) == (2, 1), (code, out, err)
        assert not out
        assert err.startswith("error: ")
        assert len(err) < 700
        assert not (own.runs / "tiny" / "prepare").exists()
        lines.append(err)
    return lines


def looked_at(own: Worked) -> None:
    """`check` reads the heads of the data alone: it may find nothing wrong."""
    code, _, err = own.give("check", "tiny")
    assert code in (0, 2)
    assert err.count("\n") == (code == 2), err


@pytest.mark.parametrize("name", NPZ)
def test_npz(name: str, own: Worked) -> None:
    (own.root / "own.npz").write_bytes(NPZ[name])
    for line in refused(own, "npz", "own.npz", *(["prepare"] if name in UNSEEN else BOTH)):
        assert "own.npz" in line or "data" in line
    looked_at(own)


@pytest.mark.parametrize(("name", "content"), IMAGES.values(), ids=IMAGES.keys())
def test_a_folder_with_one_broken_file(name: str, content: bytes, own: Worked) -> None:
    for index, pixels in enumerate(GREY[:12]):
        (own.root / "own").mkdir(exist_ok=True)
        (own.root / "own" / f"{index}.png").write_bytes(png(pixels))
    (own.root / "own" / name).parent.mkdir(exist_ok=True)
    (own.root / "own" / name).write_bytes(content)
    for line in refused(own, "images", "own"):
        assert str(own.root / "own") in line
    looked_at(own)


@pytest.mark.parametrize("content", PICKLES.values(), ids=PICKLES.keys())
@pytest.mark.slow
def test_pickles(content: object, own: Worked) -> None:
    (own.root / "own.pkl").write_bytes(pickle.dumps(content))
    for line in refused(own, "pickle", "own.pkl", "prepare"):
        assert "own.pkl" in line
    looked_at(own)


PLACES: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path),
    "forbidden": lambda path: (path.write_bytes(GOOD), path.chmod(0)),
    "in a forbidden folder": lambda path: (
        path.parent.joinpath("closed").mkdir(),
        path.parent.joinpath("closed", "own").write_bytes(GOOD),
        path.parent.joinpath("closed").chmod(0),
        path.symlink_to("closed/own"),
    ),
}


@pytest.mark.parametrize("kind", ["npz", "images", "pickle"])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_a_place_without_data(place: Callable[[Path], object], kind: str, own: Worked) -> None:
    place(own.root / "own")
    with as_a_person():
        for line in refused(own, kind, "own", "prepare", "check"):
            assert str(own.root)[:40] in line  # a long path is shortened


@pytest.mark.parametrize("kind", ["npz", "pickle"])
def test_a_pipe_is_no_file(kind: str, own: Worked) -> None:
    """It would be waited for without end."""
    os.mkfifo(own.root / "own")
    refused(own, kind, "own", "prepare", "check")


def test_a_pipe_among_images(own: Worked) -> None:
    (own.root / "own").mkdir()
    (own.root / "own" / "a.png").write_bytes(FINE)
    os.mkfifo(own.root / "own" / "b.png")
    refused(own, "images", "own")
    looked_at(own)


@pytest.mark.parametrize(
    "content",
    ["[]", "3", "{", "null", '{"own.npz": 3}', '{"own.npz": []}', '{".": ["a", "b"]}', "\0"],
)
def test_what_is_kept_of_own_data_may_be_spoilt(content: str, own: Worked) -> None:
    """It can be had again."""
    (own.root / "own.npz").write_bytes(GOOD)
    space = {"data": {"name": "npz", "path": "own.npz"}}
    (own.root / "search_spaces" / "tiny.yaml").write_text(yaml.safe_dump(space))
    own.done("settings", "tiny")
    before = json.loads((own.runs / "tiny" / "settings" / "data.json").read_text())
    kept = own.runs / "state" / "own_data"
    kept.mkdir(parents=True, exist_ok=True)
    for name in [*kept.iterdir()] or [kept / "0.json"]:
        name.write_text(content)
    own.done("settings", "tiny")
    assert json.loads((own.runs / "tiny" / "settings" / "data.json").read_text()) == before
