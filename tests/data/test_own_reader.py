"""Data that a function of one's own reads: sound ones are prepared, faulty ones get one line."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import yaml
from own_models import READER, READER_FILE, write_digits
from test_pipeline import pipeline

from pipeline.data.own_reader import read_own
from pipeline.data.preview import find_images
from pipeline.errors import UserError
from pipeline.files import read_json
from pipeline.paths import Paths
from pipeline.results.record import read_record
from pipeline.settings import snapshot
from pipeline.settings.machine import Machine
from pipeline.settings.own_files import SOURCES
from pipeline.settings.space import Space, load_space
from pipeline.stages import prepare
from pipeline.study.identity import search_study
from pipeline.study.receipt import left_out
from pipeline.study.restore import restored, space_text

FAULTY = Path(__file__).parents[1] / "fixtures" / "faulty" / "readers.py"
FAULTS = {
    "fails": "fails: line 20: FileNotFoundError: ",
    "pair": "must give arrays by name, `images` and `labels`, but gives tuple: return a dict",
    "floats": "images must be 8-bit values (uint8), but got float64: ",
    "nothing": "images must be (N, H, W), (N, H, W, C) or (N, C, H, W) and not empty, but got (0,",
    "labels": "there must be one label an image, (20,), but got (7,): ",
    "unknown": "unknown array 'masks': ",
    "random": "is not deterministic: gives other `images` when it is asked again: ",
    "counting": "is not deterministic: gives other `labels` when it is asked again: ",
    "writes": "changes what lies at data.path: ",
}


def space_with(root: Path, source: str, function: str = "read") -> Space:
    """The space `own` whose data are read from `there/` by a function of `my_reader.py`."""
    (root / "search_spaces").mkdir(parents=True, exist_ok=True)
    (root / "there").mkdir(exist_ok=True)
    write_digits(root / "there" / "digits.csv")
    path = "there/digits.csv" if function == "read" else "there"
    raw = {"data": {"name": "own", "path": path, "reader": f"{READER_FILE}:{function}"}}
    (root / "search_spaces" / "own.yaml").write_text(yaml.safe_dump(raw))
    (root / READER_FILE).write_text(source)
    (root / "machine.yaml").write_text("device: cpu\n")
    return load_space(root, "own")


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_is_one_line(name: str, tmp_path: Path) -> None:
    space = space_with(tmp_path, FAULTY.read_text(), name)
    with pytest.raises(UserError) as caught:
        read_own(space.data, space.section("data")[SOURCES], Paths(tmp_path, "own"))
    assert str(caught.value).startswith(f"{READER_FILE}:{name}: {FAULTS[name]}")
    assert "\n" not in str(caught.value)


def test_a_sound_reader_has_none(tmp_path: Path) -> None:
    space = space_with(tmp_path, FAULTY.read_text(), "sound")
    raw = read_own(space.data, space.section("data")[SOURCES], Paths(tmp_path, "own"))
    assert raw.train_images.shape == (20, 3, 8, 8)
    assert (raw.classes, raw.test_images) == (["all"], None)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"reader": "read"}, "data.reader: must be FILE.py:NAME, a function or class of it, but"),
        ({"reader": None}, "`name: own` and `reader: FILE.py:FUNCTION` go together: give both"),
        ({"name": "npz"}, "`name: own` and `reader: FILE.py:FUNCTION` go together: give both"),
        ({"path": None}, "name: own needs `path`, the file or folder to read"),
        ({"reader": "my_reader.py:load"}, "my_reader.py: has no function load: there are read:"),
        ({"size": 8}, "size: only `name: images` is read so"),
    ],
)
def test_a_wrong_section_is_one_line(
    tmp_path: Path, data: dict[str, str | None], message: str
) -> None:
    space_with(tmp_path, READER)
    file = tmp_path / "search_spaces" / "own.yaml"
    file.write_text(yaml.safe_dump({"data": yaml.safe_load(file.read_text())["data"] | data}))
    with pytest.raises(UserError) as caught:
        load_space(tmp_path, "own")
    assert str(caught.value).startswith("search_spaces/own.yaml: data")
    assert message in str(caught.value)


def test_an_edit_makes_prepare_stale_and_the_same_images_no_other_study(tmp_path: Path) -> None:
    space, paths = space_with(tmp_path, READER), Paths(tmp_path, "own")
    checked = pipeline(tmp_path, "check", "own")
    assert checked.returncode == 0, checked.stderr
    assert f"200 by {READER_FILE}:read at {tmp_path}/there/digits.csv, 1×8×8" in checked.stdout
    assert pipeline(tmp_path, "prepare", "own").returncode == 0
    digest = hashlib.sha256(READER.encode()).hexdigest()
    manifest = read_json(paths.manifest)
    assert manifest["source_sha256"][READER_FILE] == digest
    assert manifest["classes"] == [str(number) for number in range(10)]
    assert read_record(paths, "prepare").settings["data"][SOURCES][READER_FILE]["text"] == READER
    assert snapshot.read(paths) == space

    study = search_study(space, manifest["sha256"])
    assert restored("own", study.id, study.spec, left_out(space)).data == space.data
    head = space_text("own", study.id, study.spec, left_out(space))
    assert f"# with {READER_FILE} of SHA-256 {digest[:12]}" in head

    (tmp_path / READER_FILE).write_text(READER + "\n")
    stale = pipeline(tmp_path, "search", "own")
    assert stale.returncode == 2
    assert f"was made with data.sources.{READER_FILE}.sha256" in stale.stderr
    assert "run `python -m pipeline prepare own` first" in stale.stderr
    assert pipeline(tmp_path, "prepare", "own").returncode == 0
    other = load_space(tmp_path, "own")
    assert search_study(other, read_json(paths.manifest)["sha256"]) == study
    assert read_json(paths.manifest)["source_sha256"][READER_FILE] != digest


def test_check_and_prepare_refuse_a_faulty_one(tmp_path: Path) -> None:
    space_with(tmp_path, FAULTY.read_text(), "random")
    for command in ("check", "prepare"):
        refused = pipeline(tmp_path, command, "own")
        assert refused.returncode == 2
        assert f"error: {READER_FILE}:random: {FAULTS['random']}" in refused.stderr
        assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "runs" / "own" / "prepare").exists()


def test_one_that_never_answers_ends_check_and_a_slow_one_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    endless = READER.replace("    table =", "    while True: pass\n    table =", 1)
    space, paths = space_with(tmp_path, endless), Paths(tmp_path, "own")
    monkeypatch.setattr("pipeline.own_code.SECONDS", 0.2)
    with pytest.raises(UserError, match=r"read: line 7: has not answered within 0.2 s: correct"):
        find_images(space, paths)

    space = space_with(tmp_path, READER)
    monkeypatch.setattr("pipeline.data.own_reader.SECONDS", 0.0)
    prepare.run(space, Machine(), paths)
    said = capsys.readouterr().err
    assert said == f"prepare waits for {READER_FILE}:read, which has not answered within 0 s\n"
    monkeypatch.setattr("pipeline.data.preview.read_own", None)
    assert find_images(space, paths).note.endswith("1×8×8: prepared")


@pytest.mark.parametrize("indent", ["", "    "])
def test_one_that_ends_the_process_is_refused(tmp_path: Path, indent: str) -> None:
    """The command would have ended with exit code 0 and without a word."""
    space_with(tmp_path, f"def read(path):\n    pass\n{indent}raise SystemExit(0)\n")
    for command in ("check", "prepare"):
        refused = pipeline(tmp_path, command, "own")
        assert refused.returncode == 2
        assert f"error: {READER_FILE}" in refused.stderr
        assert "line 3: SystemExit: 0: correct it" in refused.stderr
        assert refused.stderr.count("\n") == 1
