"""Outputs that do not belong together, or are not what a stage left, are refused by who reads them.

Every test gives commands as a person does and reads the one line that is said.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ledgers import open_ledger
from surroundings import ARITHMETIC
from worked import Worked

from pipeline.paths import STAGES
from pipeline.seeds import digest
from pipeline.study.storage.workers import keep_job
from pipeline.work.job import open_job


@pytest.fixture
def tiny(worked: Worked, tmp_path: Path) -> Worked:
    """The worked sweep, for this test to spoil."""
    return worked.copy(tmp_path / "clone")


def flip(path: Path) -> None:
    """Changes one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_record_says_what_a_stage_was_made_with_and_from(worked: Worked) -> None:
    folder = worked.runs / "tiny"
    records = {stage: json.loads((folder / stage / "record.json").read_text()) for stage in STAGES}
    assert records["search"]["settings"]["search"]["trials"] == 3
    assert records["search"]["settings"]["parameters"]["beta"] == 1.0, "a default is spelled out"
    assert list(records["render"]["inputs"]) == ["prepare", "search", "retrain", "evaluate"]
    for stage, record in records.items():
        files = {p.relative_to(folder / stage).as_posix() for p in (folder / stage).rglob("*")}
        assert record["outputs"].keys() == files - {"record.json", "seeds"}


def test_training_images_are_not_measured_as_test_images(tiny: Worked) -> None:
    tiny.edit("data", "test", {"seed": 1})
    tiny.done("prepare", "tiny")
    for stage in ("retrain", "evaluate", "render"):
        assert tiny.refused(stage, "tiny") == (
            f"{stage} tiny: runs/tiny/search was made from another runs/tiny/prepare than there is"
            " now: run `python -m pipeline search tiny` first"
        )


@pytest.mark.slow
def test_a_stage_asks_for_what_the_space_says_now(tiny: Worked) -> None:
    tiny.edit("search", "trials", 4)
    assert tiny.refused("evaluate", "tiny") == (
        "evaluate tiny: runs/tiny/search was made with search.trials 3, but"
        " search_spaces/tiny.yaml says 4: run `python -m pipeline search tiny` first"
    )
    tiny.done("search", "tiny")  # which extends the study
    assert "runs/tiny/retrain was made from another runs/tiny/search" in tiny.refused(
        "evaluate", "tiny"
    )
    tiny.done("retrain", "tiny")
    tiny.done("evaluate", "tiny")


def test_the_report_is_not_drawn_with_ranges_that_were_not_searched(tiny: Worked) -> None:
    tiny.edit("parameters", "lr", {"low": 1e-3, "high": 2e-2, "log": True})
    assert "search was made with parameters.lr.high 0.01, but" in tiny.refused("render", "tiny")


def test_settings_of_later_stages_ask_for_nothing(tiny: Worked) -> None:
    tiny.edit("render", "images", 3)
    tiny.done("evaluate", "tiny")
    tiny.done("retrain", "tiny")


def test_the_same_outputs_made_again_are_the_same(tiny: Worked) -> None:
    before = tiny.files()
    for stage in ("prepare", "search", "retrain", "evaluate"):
        tiny.done(stage, "tiny")
    assert tiny.files() == before


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("prepare/test_images.npy", ("search", "retrain", "evaluate", "render")),
        ("search/trials.csv", ("retrain", "render")),
        ("search/best.json", ("retrain", "render", "status", "sync")),
        ("retrain/model.safetensors", ("evaluate", "render", "sync")),
        ("retrain/seeds/seed-1.safetensors", ("evaluate", "render")),
        ("retrain/config.json", ("evaluate", "render", "sync")),
        ("retrain/winner.json", ("evaluate", "render", "sync")),
        ("evaluate/metrics.json", ("render", "sync")),
    ],
)
def test_one_flipped_bit_is_refused_by_every_reader(
    file: str, stages: tuple[str, ...], tiny: Worked
) -> None:
    (tiny.root / "machine.yaml").write_text("workers: 1\ndevice: cpu\n")
    flip(tiny.runs / "tiny" / file)
    stage = file.split("/")[0]
    for command in stages:
        assert tiny.refused(command, "tiny") == (
            f"runs/tiny/{file} is not what {stage} wrote: run `python -m pipeline {stage} tiny`"
            " again"
        )


def test_outputs_of_an_earlier_version_say_which_stage_to_run(tiny: Worked) -> None:
    for stage in STAGES:
        (tiny.runs / "tiny" / stage / "record.json").unlink()
    assert tiny.refused("render", "tiny") == (
        "runs/tiny/prepare/record.json is missing (of an earlier version?): run"
        " `python -m pipeline prepare tiny` again"
    )
    tiny.done("prepare", "tiny")
    assert "run `python -m pipeline search tiny` again" in tiny.refused("retrain", "tiny")
    tiny.done("search", "tiny")


def test_a_worker_does_not_train_an_old_study_on_new_images(tiny: Worked) -> None:
    """As one that is started again, after a kill, when someone has prepared other data."""
    tiny.edit("data", "limit", 150)
    tiny.done("prepare", "tiny")
    storage = f"sqlite:///{tiny.runs}/state/ledger.db"
    study = json.loads((tiny.runs / "tiny" / "search" / "best.json").read_text())["study"]
    job = open_job(open_ledger(storage), f"tiny-search-{digest([study])[:12]}")
    raw = job.model_dump(mode="json")
    raw["space"]["search"]["trials"] = 9
    keep_job(open_ledger(storage), job.id, "tiny", json.dumps(raw))
    with subprocess.Popen(
        [sys.executable, "-m", "pipeline", "worker", job.id, "0"],
        cwd=tiny.root,
        env={
            **ARITHMETIC,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "PIPELINE_STORAGE": storage,
        },
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as worker:
        assert worker.stderr is not None
        says = worker.stderr.read()
    assert worker.returncode == 2, says
    other = r"error: study tiny-\w+ is of other images than runs/tiny/prepare holds by now: .*\n"
    assert re.fullmatch(other, says)
    assert len(open_ledger(storage).trials(raw["studies"][0]["id"])[-1].curve) == 0


@pytest.mark.parametrize("name", ["model", "first_epoch", "last_epoch"])
def test_damaged_weights_of_a_candidate_are_trained_again(name: str, tiny: Worked) -> None:
    before = tiny.files()
    (weights,) = tiny.runs.glob(f"state/studies/*/trial-00001/{name}.safetensors")
    flip(weights)
    code, _, err = tiny.give("retrain", "tiny")
    assert (code, "are not as the run left them: training it again" in err) == (0, True), err
    assert tiny.files() == before


def test_a_folder_in_the_place_of_a_candidates_weights_is_one_line(tiny: Worked) -> None:
    (weights,) = tiny.runs.glob("state/studies/*/trial-00001/model.safetensors")
    weights.unlink()
    weights.mkdir()
    said = tiny.refused("retrain", "tiny")
    assert said.endswith("model.safetensors must be a file, but it is a folder: remove it, then the"
                         " same command goes on")  # fmt: skip


def test_after_a_kill_between_two_renames_the_reader_puts_the_old_folder_back(
    tiny: Worked,
) -> None:
    before = tiny.files()
    (tiny.runs / "tiny" / "retrain").rename(tiny.runs / "tiny" / ".retrain.old")
    tiny.done("evaluate", "tiny")
    assert tiny.files() == before


@pytest.mark.slow
def test_without_the_state_an_output_is_still_measured_and_drawn(tiny: Worked) -> None:
    """As a colleague has it after `dvc pull`."""
    before = tiny.files()
    shutil.rmtree(tiny.runs / "state")
    (tiny.root / "machine.yaml").write_text("workers: 1\ndevice: cpu\n")
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "evaluate", "tiny"],
        cwd=tiny.root,
        env=ARITHMETIC | {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    after = tiny.files()
    assert {n: d for n, d in before.items() if n.startswith("runs/tiny/")}.items() <= after.items()
