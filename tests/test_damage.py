"""Every file under runs/, spoilt in every way, before every command that might read it.

A command that reads it ends with one line and exit code 2 and changes nothing; another one does not
notice. No command ever shows a traceback: anything but an exit fails the test.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from rights import as_a_person
from worked import Worked

from pipeline.results.record import INPUTS

SEED = 20
RANDOM = random.Random(SEED)
FAST = 45  # cases of the fast suite
HEAVY = ("evaluate", "render")  # what may succeed takes seconds: given only what they read


def empty(path: Path, _: Path) -> None:
    path.write_bytes(b"")


def cut_off(path: Path, _: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garbage(path: Path, _: Path) -> None:
    path.write_bytes(random.Random(SEED).randbytes(max(path.stat().st_size, 100)))


def flip(path: Path, _: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


def other_json(path: Path, _: Path) -> None:
    path.write_text("[]" if path.read_bytes()[:1] == b"{" else "{}")


def swapped(path: Path, other: Path) -> None:
    shutil.copyfile(other, path)


def gone(path: Path, _: Path) -> None:
    path.unlink()


def folder(path: Path, _: Path) -> None:
    path.unlink()
    path.mkdir()


def dangling(path: Path, _: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "nowhere")


def looped(path: Path, _: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def of_another_version(path: Path, _: Path) -> None:
    """Well-formed, and not what this version writes."""
    content = path.read_bytes()
    if path.suffix == ".json":
        whole = json.loads(content)
        later = {"format": 99, **whole} if isinstance(whole, dict) else [*whole[1:], 99]
        path.write_text(json.dumps(later))
    elif path.suffix == ".csv":
        path.write_bytes(b"version," + content.replace(b"\n", b"\n99,", content.count(b"\n") - 1))
    else:
        path.write_bytes(content[:6] + b"\x09" + content[7:])  # where npy has its version


def retyped(path: Path, _: Path) -> None:
    """Every value of another type."""
    if path.suffix == ".json":
        whole = json.loads(path.read_bytes())
        odd = {key: [None] for key in whole} if isinstance(whole, dict) else [None] * len(whole)
        path.write_text(json.dumps(odd))
    elif path.suffix == ".csv":
        header, *rows = path.read_text().splitlines()
        path.write_text("\n".join([header, *("x," * row.count(",") + "x" for row in rows)]))
    else:
        path.write_text("3")


def forbidden(path: Path, _: Path) -> None:
    path.chmod(0)


FAULTS: tuple[Callable[[Path, Path], None], ...] = (
    empty, cut_off, garbage, flip, other_json, swapped, gone, folder, dangling, looped,
    of_another_version, retyped, forbidden,
)  # fmt: skip
FORMED = (other_json, of_another_version, retyped)  # which take a file for one of ours
OUTPUTS = (
    "prepare/manifest.json",
    "prepare/record.json",
    "prepare/train_images.npy",
    "prepare/validation_images.npy",
    "prepare/test_images.npy",
    "prepare/train_labels.npy",
    "prepare/validation_labels.npy",
    "prepare/test_labels.npy",
    "prepare/samples.png",
    "search/trials.csv",
    "search/curves.csv",
    "search/best.json",
    "search/study.json",
    "search/record.json",
    "retrain/model.safetensors",
    "retrain/first_epoch.safetensors",
    "retrain/last_epoch.safetensors",
    "retrain/seeds/seed-1.safetensors",
    "retrain/config.json",
    "retrain/winner.json",
    "retrain/candidates.csv",
    "retrain/history.csv",
    "retrain/runs.json",
    "retrain/measured.npy",
    "retrain/record.json",
    "evaluate/metrics.json",
    "evaluate/headline.json",
    "evaluate/record.json",
    "render/report.html",
    "render/history.png",
    "render/record.json",
)
# What else is read of an output: by the name of the command.
ALSO = {
    "prepare/manifest.json": ("status", "reproduce"),
    "prepare/train_images.npy": ("reproduce",),
    "prepare/validation_images.npy": ("reproduce",),
    "prepare/record.json": ("status", "reproduce", "sync"),
    "search/best.json": ("status", "sync"),
    "search/record.json": ("status", "sync"),
    "search/trials.csv": ("sync",),
    "retrain/candidates.csv": ("sync",),
    "retrain/model.safetensors": ("sync",),
    "retrain/winner.json": ("sync",),
    "retrain/record.json": ("sync",),
    "evaluate/metrics.json": ("sync",),
    "evaluate/record.json": ("sync",),
    "render/report.html": ("sync",),
    "render/record.json": ("sync",),
}
STATE = {  # what is kept beside the outputs, and what looks at it
    "ledger.db": ("status", "search", "list", "clean", "retry", "sync"),
    "mlflow.db": ("status", "clean"),
    "studies/*/trial-00000/model.safetensors": ("status", "clean"),
    "models/*/MLmodel": ("clean",),
    "models/*/data/vae/config.json": ("status",),
}
COMMANDS = ("search", "retrain", "evaluate", "render", "status", "sync", "reproduce")
LOOKS = ("check", "list", "clean", "archive", "retry", "verify", "settings")
MORE = {
    "reproduce": ["tiny", "0"],
    "archive": ["tiny", "--to", "../tiny.tar"],
    "verify": ["tiny", "--no-mlflow"],
    "list": [],
}
Case = tuple[str, int, str]  # file, fault, command


def reads(command: str, file: str) -> bool:
    """Whether a command surely reads an output."""
    return file.split("/")[0] in INPUTS.get(command, ()) or command in ALSO.get(file, ())


def all_cases() -> list[Case]:
    """Every file and fault with a command that reads it, one that may and one that need not."""
    cases: list[Case] = []
    for file in OUTPUTS:
        readers = [command for command in COMMANDS if reads(command, file)]
        others = [c for c in COMMANDS if c not in (*readers, *HEAVY, "sync")]
        for fault in range(len(FAULTS)):
            some = RANDOM.sample(readers, min(1, len(readers)))
            cases += [(file, fault, command) for command in (*some, RANDOM.choice(LOOKS))]
        cases += [(file, RANDOM.randrange(len(FAULTS)), command) for command in others[:1]]
    for file, commands in STATE.items():
        for number, fault in enumerate(FAULTS):
            new = file == "ledger.db" and fault is empty  # to SQLite a new one
            if fault not in FORMED and not new:
                cases.append((file, number, commands[number % len(commands)]))
    return cases


CASES = all_cases()
QUICK = set(RANDOM.sample(range(len(CASES)), FAST))


@pytest.fixture(scope="module")
def tiny(worked: Worked, tmp_path_factory: pytest.TempPathFactory) -> Worked:
    """A copy that every test leaves as it was."""
    copy = worked.copy(tmp_path_factory.mktemp("damaged") / "clone")
    (copy.root / "machine.yaml").write_text("workers: 1\ndevice: cpu\n")
    return copy


@pytest.fixture
def mended(worked: Worked, tiny: Worked) -> Iterator[Worked]:
    """The copy, in which afterwards all that has changed is mended."""
    yield tiny
    tiny.mend(worked)


def spoil(tiny: Worked, name: str, fault: int) -> None:
    found = sorted(tiny.runs.glob(name))[0]
    others = [p for p in sorted(found.parent.iterdir()) if p.is_file() and p != found]
    FAULTS[fault](found, others[0] if others else Path(__file__))


@pytest.mark.parametrize(
    ("file", "fault", "command"),
    [
        pytest.param(*case, marks=() if number in QUICK else pytest.mark.slow,
                     id=f"{case[0]}-{FAULTS[case[1]].__name__}-{case[2]}")
        for number, case in enumerate(CASES)
    ],
)  # fmt: skip
def test_a_spoilt_file(file: str, fault: int, command: str, mended: Worked) -> None:
    output = file in OUTPUTS
    tracking = "" if command == "sync" else "tracking: none\n"
    (mended.root / "machine.yaml").write_text(f"workers: 1\ndevice: cpu\n{tracking}")
    spoil(mended, f"tiny/{file}" if output else f"state/{file}", fault)
    before = mended.files()
    with as_a_person() if FAULTS[fault] is forbidden else nullcontext():
        code, _, err = mended.give(command, *MORE.get(command, ["tiny"]))
    assert code in (0, 2), err
    stage = file.split("/")[0]
    if output and reads(command, file):
        if FAULTS[fault] in (looped, forbidden) and code == 2:
            assert err.count("\n") == 1
            return
        assert code == 2, err
        assert f"python -m pipeline {stage} tiny" in err
    if code == 2:
        assert err.count("\n") == 1, err
        assert err.startswith("error: ")
        assert mended.files() == before


@pytest.mark.parametrize("command", ["evaluate", "status", "search", "sync"])
def test_a_link_to_a_state_that_is_not_mounted(command: str, mended: Worked) -> None:
    """What needs no state works; the rest says it."""
    (mended.root / "machine.yaml").write_text("workers: 1\ndevice: cpu\n")
    shutil.rmtree(mended.runs / "state")
    (mended.runs / "state").symlink_to("/nowhere/at/all")
    if command in ("evaluate", "status"):
        code, _, err = mended.give(command, "tiny")
        assert (code, err.count("\n")) == (0, command == "evaluate")  # by the mirror
    else:
        assert "state is a link that leads nowhere" in mended.refused(command, "tiny")


def test_pages_of_a_store_that_is_garbage(mended: Worked) -> None:
    (mended.root / "machine.yaml").write_text("device: cpu\n")
    (mended.runs / "state" / "mlflow.db").write_bytes(b"garbage" * 1000)
    for command in (["ui"], ["sync", "tiny"]):
        said = mended.refused(*command)
        assert f"{mended.runs / 'state' / 'mlflow.db'} is damaged" in said
    (mended.runs / "state" / "mlflow.db").unlink()
    assert mended.give("sync", "tiny")[0] == 0, "what it advises works"


def test_one_invalid_space_hides_no_other_sweep(mended: Worked) -> None:
    file = mended.root / "search_spaces" / "broken.yaml"
    file.write_text("data: [")
    code, out, err = mended.give("status")
    file.unlink()
    assert (code, err.count("\n")) == (2, 1)
    assert "search_spaces/broken.yaml" in err
    assert "search tiny-" in out


@pytest.mark.parametrize(
    "path", ["~nosuchuser/x", "x" * 300, "y/" * 3000, "a\0b"], ids=["user", "name", "deep", "null"]
)
def test_a_path_that_no_file_can_have(path: str, mended: Worked) -> None:
    space = mended.root / "search_spaces" / "tiny.yaml"
    text = space.read_text()
    for name in ("npz", "images", "pickle"):
        mended.edit("data", "name", name)
        mended.edit("data", "path", path)
        mended.edit("data", "test", {})
        mended.refused("prepare", "tiny")
    space.write_text(text)
