"""What stages work from: the settings that a command writes first, and the digest of own data."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.image_folder import image_files
from pipeline.errors import UserError
from pipeline.paths import Paths, main_checkout
from pipeline.settings import own_data, snapshot
from pipeline.settings.machine import load_machine
from pipeline.settings.space import Space, load_space, space_names
from pipeline.study.identity import candidate_study, search_study
from pipeline.work.lineage import as_yaml

ROOT = Path(__file__).parents[2]
EVERYTHING = """
data: {name: npz, path: mine.npz, limit: 100, test: {seed: 3}}
model: {likelihood: gaussian, sigma: optimal}
parameters:
  family: {choices: [mlp, conv_pool]}
  filters: {low: 8, high: 32, step: 8, when: {family: conv_pool}}
  hidden: {choices: [[64], [64, 32]], when: {family: mlp}}
  lr: {low: 1.0e-4, high: 1.0e-2, log: true}
  patience: {choices: [null, 3]}
  latent_dim: {low: 2, high: 16, log: true}
  restore_best: false
search: {sampler: gp, pruner: percentile, trials: 7, fallback: {lr: 1.0e-3}}
retrain: {top: 1}
render: {projections: [umap]}
"""


def write(root: Path, name: str, text: str) -> Paths:
    (root / "search_spaces").mkdir(parents=True, exist_ok=True)
    (root / "search_spaces" / f"{name}.yaml").write_text(text)
    return Paths(root, name)


@pytest.fixture(params=[*space_names(ROOT), "everything"])
def paths(request: pytest.FixtureRequest, tmp_path: Path) -> Paths:
    """Each committed sweep, and one that uses all forms, in a folder of its own."""
    np.savez(tmp_path / "mine.npz", images=np.zeros((4, 2, 2), np.uint8))
    committed = ROOT / "search_spaces" / f"{request.param}.yaml"
    text = committed.read_text() if committed.exists() else EVERYTHING
    return write(tmp_path, request.param, text)


def means_the_same(one: Space, other: Space) -> bool:
    studies = [
        (search_study(each, "d"), candidate_study(each, "d", {}), each.model_dump(mode="json"))
        for each in (one, other)
    ]
    return studies[0] == studies[1] and list(one.searched) == list(other.searched)


def test_a_stage_reads_the_sweep_that_was_written(paths: Paths) -> None:
    snapshot.take(paths)
    space, read = load_space(paths.root, paths.name), snapshot.read(paths)
    assert means_the_same(space, read)
    assert space.data.model_fields_set == read.data.model_fields_set
    before = {file.name: file.read_bytes() for file in paths.settings.iterdir()}
    snapshot.take(paths)
    assert {file.name: file.read_bytes() for file in paths.settings.iterdir()} == before
    assert set(before) == {f"{section}.json" for section in snapshot.SECTIONS}


def test_a_sweep_is_written_back_as_a_file(paths: Paths, tmp_path: Path) -> None:
    space = load_space(paths.root, paths.name)
    write(tmp_path, paths.name, as_yaml(space))
    again = load_space(tmp_path, paths.name)
    assert means_the_same(space, again)
    assert (space.fixed, space.searched) == (again.fixed, again.searched)


def test_defaults_are_spelled_out(tmp_path: Path) -> None:
    paths = write(tmp_path, "x", "data: {name: digits}\nparameters: {lr: 0.002}\n")
    snapshot.take(paths)
    search = json.loads((paths.settings / "search.json").read_text())
    assert search["trials"] == 20
    parameters = json.loads((paths.settings / "parameters.json").read_text())
    assert parameters["fixed"] == {"lr": 0.002}
    assert parameters["defaults"]["batch_size"] == 128


def test_a_snapshot_of_other_defaults_is_refused(tmp_path: Path) -> None:
    paths = write(tmp_path, "x", "data: {name: digits}\n")
    snapshot.take(paths)
    file = paths.settings / "parameters.json"
    file.write_text(file.read_text().replace('"batch_size": 128', '"batch_size": 64'))
    with pytest.raises(UserError, match="of another version of the code: run `dvc repro"):
        snapshot.read(paths)
    file.write_text("{}")
    with pytest.raises(UserError, match="no valid sweep"):
        snapshot.read(paths)
    file.unlink()
    with pytest.raises(UserError, match=r"parameters\.json is missing"):
        snapshot.read(paths)


def test_an_edit_while_the_file_is_read_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write(tmp_path, "x", "data: {name: digits}\n")
    save = snapshot.save

    def save_late(space: Space, paths: Paths, stage: str) -> None:
        write(tmp_path, "x", "data: {name: digits}\nsearch: {trials: 3}\n")
        save(space, paths, stage)

    monkeypatch.setattr(snapshot, "save", save_late)
    with pytest.raises(UserError, match="was edited while it was read"):
        snapshot.take(paths)


def test_an_edit_in_the_instant_of_recording_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write(tmp_path, "x", "data: {name: digits}\n")
    snapshot.take(paths)
    monkeypatch.setenv("DVC_STAGE", "search@x")
    lock = "stages: {settings@x: {params: {search_spaces/x.yaml: {data: {name: digits},%s}}}}"
    (tmp_path / "dvc.lock").write_text(lock % "parameters: {lr: 1e-06}")
    write(tmp_path, "x", "data: {name: digits}\nparameters: {lr: 1.0e-6}\n")
    snapshot.save(load_space(tmp_path, "x"), paths, "settings")
    write(tmp_path, "x", "data: {name: digits}\nsearch: {trials: 3}\n")
    assert snapshot.open_settings("search", paths).search.trials == 20
    (tmp_path / "dvc.lock").write_text(lock % "search: {trials: 3}")
    with pytest.raises(UserError, match="dvc repro -sf settings@x"):
        snapshot.open_settings("search", paths)


def test_a_stage_notices_that_its_settings_were_replaced(tmp_path: Path) -> None:
    paths = write(tmp_path, "x", "data: {name: digits}\n")
    snapshot.take(paths)
    space = snapshot.read(paths)
    write(tmp_path, "x", "data: {name: digits}\nrender: {points: 60}\n")
    snapshot.take(paths)
    snapshot.check_unchanged("search", space, paths)
    with pytest.raises(UserError, match=r"render\.json changed while it ran"):
        snapshot.check_unchanged("render", space, paths)


@pytest.fixture
def images(tmp_path: Path) -> Paths:
    """A sweep over a folder of two images, older than what may still be changing."""
    for number in range(2):
        file = tmp_path / "photos" / "a" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), number, np.uint8)).save(file)
        os.utime(file, (1e9, 1e9))
    return write(tmp_path, "x", "data: {name: images, path: photos}\n")


def digest_of(paths: Paths) -> str | None:
    return own_data.own_sha256(load_space(paths.root, paths.name).data, paths)


def test_own_data_have_a_digest_of_names_and_contents(images: Paths) -> None:
    first, folder = digest_of(images), images.root / "photos" / "a"
    assert digest_of(images) == first
    (folder / ".hidden").touch()
    assert digest_of(images) == first
    (folder / "0.png").write_bytes((folder / "1.png").read_bytes())
    second = digest_of(images)
    (folder / "1.png").rename(folder / "2.png")
    assert len({first, second, digest_of(images)}) == 3


def test_images_behind_links_count_and_hidden_folders_do_not(images: Paths) -> None:
    """As readers see them: class folders are often links to where the images are."""
    photos, far = images.root / "photos", images.root / "far"
    first = digest_of(images)
    (photos / "a").rename(far)
    (photos / "a").symlink_to(far)
    assert digest_of(images) == first
    (far / "0.png").write_bytes((far / "1.png").read_bytes())
    second = digest_of(images)
    assert second != first
    (photos / ".cache").mkdir()
    (photos / ".cache" / "0.png").touch()
    (photos / "a" / "loop").symlink_to(photos)
    assert digest_of(images) == second


def test_any_name_of_a_file_has_a_digest_of_its_own(images: Paths) -> None:
    flat = images.root / "photos" / "a"
    write(images.root, "x", "data: {name: images, path: photos/a}\n")
    two = digest_of(images)
    second = hashlib.sha256((flat / "1.png").read_bytes()).hexdigest()
    (flat / "1.png").unlink()
    (flat / "0.png").rename(flat / f"0.png\n{second}  1.png")  # looks like the list of both
    assert digest_of(images) != two
    flat.rename(images.root / "photos" / os.fsdecode(b"caf\xe9"))  # Latin-1
    write(images.root, "x", "data: {name: images, path: photos}\n")
    assert digest_of(images)
    with pytest.raises(UserError, match="a class's name must be text in UTF-8: rename the folder"):
        image_files(images.root / "photos")


def test_own_data_are_read_once(images: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_data, "RACY_SECONDS", -1.0)  # the files were made a moment ago
    first = digest_of(images)

    def read(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(own_data.hashlib, "file_digest", read)
    assert digest_of(images) == first


def test_what_changed_a_moment_ago_is_read_again(images: Paths) -> None:
    file = images.root / "photos" / "a" / "0.png"
    first, stat, content = digest_of(images), file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert digest_of(images) != first


def test_own_data_that_are_gone(images: Paths) -> None:
    snapshot.take(images)
    recorded = (images.settings / "data.json").read_bytes()
    shutil.rmtree(images.root / "photos")
    space = load_space(images.root, "x")
    snapshot.save(space, images, "retrain")  # which does without them
    assert (images.settings / "data.json").read_bytes() == recorded
    with pytest.raises(UserError, match=r"data\.path: must be a folder of images, but there"):
        snapshot.take(images)


def test_a_copy_of_a_checkout_shares_its_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = tmp_path / "main"
    copy = main / ".dvc" / "tmp" / "exps" / "tmpabc"
    for root in (main, copy, tmp_path / "other"):
        (root / ".dvc").mkdir(parents=True, exist_ok=True)
        (root / ".dvc" / "config").touch()
    assert main_checkout(copy) == main
    assert main_checkout(main) == main
    assert Paths(copy, "x").ledger == main / "runs" / "state" / "ledger.db"
    assert Paths(copy, "x").search == copy / "runs" / "x" / "search"
    (main / "machine.yaml").write_text("workers: 7\n")
    monkeypatch.delenv("PIPELINE_WORKERS", raising=False)
    assert load_machine(copy).workers == 7
    assert own_data.own_path(copy, "mine.npz") == main / "mine.npz"
