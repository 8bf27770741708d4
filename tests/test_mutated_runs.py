"""Bytes under runs/ that nobody wrote: who reads them refuses in one line and changes nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from steady import STEADY
from worked import Worked

from pipeline.results.record import INPUTS

FILES = [
    "prepare/manifest.json",
    "prepare/record.json",
    "prepare/test_images.npy",
    "search/best.json",
    "search/trials.csv",
    "search/study.json",
    "retrain/model.safetensors",
    "retrain/config.json",
    "retrain/candidates.csv",
    "retrain/record.json",
    "evaluate/metrics.json",
    "settings/search.json",
]
COMMANDS = ["search", "retrain", "evaluate", "render", "status", "check", "list", "clean", "retry"]
SPLICES = st.tuples(st.floats(0, 1), st.integers(0, 40), st.binary(max_size=40))
CASES = st.tuples(
    st.sampled_from(FILES), st.lists(SPLICES, min_size=1, max_size=3), st.sampled_from(COMMANDS)
)
Case = tuple[str, list[tuple[float, int, bytes]], str]


@pytest.fixture(scope="module")
def tiny(worked: Worked, tmp_path_factory: pytest.TempPathFactory) -> Worked:
    return worked.copy(tmp_path_factory.mktemp("mutated") / "clone")


def check(tiny: Worked, worked: Worked, case: Case) -> None:
    file, splices, command = case
    stage, path = file.split("/")[0], tiny.runs / "tiny" / file
    content = whole = path.read_bytes()
    for share, length, new in splices:
        start = int(share * len(content))
        content = content[:start] + new + content[start + length :]
    if content == whole or (command in ("evaluate", "render") and stage not in INPUTS[command]):
        return  # nothing is wrong, and they take seconds
    path.write_bytes(content)
    before = tiny.files()
    try:
        code, _, err = tiny.give(command, *([] if command == "list" else ["tiny"]))
        assert code in (0, 2), err
        assert code == 2 or stage not in INPUTS.get(command, ()), "what was read is not refused"
        if code == 2:
            assert err.startswith("error: ")
            assert err.count("\n") == 1, err
            assert tiny.files() == before
    finally:
        tiny.mend(worked)


@pytest.mark.slow
@given(CASES)
@settings(STEADY, max_examples=40)
def test_changed_bytes(tiny: Worked, worked: Worked, case: Case) -> None:
    check(tiny, worked, case)


@pytest.mark.slow
@given(CASES)
@settings(STEADY, max_examples=300)
def test_many_changed_bytes(tiny: Worked, worked: Worked, case: Case) -> None:
    check(tiny, worked, case)
