"""One study, one arithmetic: its fingerprint, who is refused, and who says that it is mixed."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from crews import ROOT, Sweep, make_sweep, no_one_left, sweep
from desk import STUDY, Desk, curve
from once import once
from studies import next_lease

from pipeline.commands.status import status_text
from pipeline.files import read_json
from pipeline.settings.machine import Machine
from pipeline.settings.space import parse_space
from pipeline.study.search.numerics import of_proposals
from pipeline.study.storage.arithmetic import OtherArithmetic, summary
from pipeline.sync.mlflow_runs import Sweep as Mirrored

HERE, THERE = {"cpu": "AVX2", "torch": "2.9_%"}, {"cpu": "AVX512", "torch": "2.9_%"}
PRINTED = (
    "import json\n"
    "from pipeline.vae.process import arithmetic, prepare_process\n"
    "prepare_process()\n"
    "print(json.dumps(arithmetic('cpu')))"
)


def fingerprint(**environment: str) -> dict[str, str]:
    """That of a process of its own."""
    known = {key: value for key, value in os.environ.items() if not key.startswith(("MKL", "ATEN"))}
    done = subprocess.run(
        [sys.executable, "-c", PRINTED],
        cwd=ROOT,
        env={**known, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_fingerprint_tells_what_changes_the_last_bits() -> None:
    own = fingerprint()
    assert own == fingerprint(OMP_NUM_THREADS="3")  # threads are set by us
    assert own["threads"] == "1"
    if torch.backends.cpu.get_cpu_capability() != "DEFAULT":
        plain = fingerprint(ATEN_CPU_CAPABILITY="default")
        assert (plain["cpu"], plain["sums"] != own["sums"]) == ("DEFAULT", True)
    if torch.backends.mkl.is_available():
        other = fingerprint(MKL_CBWR="COMPATIBLE")
        assert {key for key in own if own[key] != other[key]} == {"sums"}


OTHER_NUMPY = {
    "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",
    "OPENBLAS_CORETYPE": "Nehalem",
}


@pytest.mark.slow
@pytest.mark.skipif(
    platform.machine() != "x86_64" or not of_proposals()["proposals"].count("X86_V3"),
    reason="needs kernels that can be switched off",
)
def test_a_worker_that_would_propose_otherwise_is_refused(begun: Sweep) -> None:
    """Its trainings are the same to the last bit; its proposals are not, from some trial on."""
    before = begun.errors
    run(begun, 2, **OTHER_NUMPY)
    line = begun.errors.removeprefix(before).splitlines()[-1]
    assert line.startswith(f"error: trial 0 of {begun.study.id} was computed with other arithmetic")
    assert "(proposals: optuna" in line
    assert "baseline, sums" in line


def test_no_override_of_the_environment_brings_tf32_back() -> None:
    """cuBLAS reads it when it is first used, after `prepare_process`."""
    program = (
        "import os\n"
        "from pipeline.vae.process import prepare_process\n"
        "prepare_process('cuda')\n"
        "print(os.environ['NVIDIA_TF32_OVERRIDE'])"
    )
    environment = {**os.environ, "NVIDIA_TF32_OVERRIDE": "1"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment,
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout == "0\n"


@pytest.mark.slow
def test_a_worker_keeps_its_origin_once_for_all_trials(begun: Sweep) -> None:
    (key,) = {trial.meta["source"] for trial in begun.trials()}
    assert begun.ledger.origin(begun.study.id, key)["space"].startswith("data:")


def claim(desk: Desk, arithmetic: dict[str, str] | None, **options: Any) -> Any:
    meta = {"host": "a"} | ({"arithmetic": arithmetic} if arithmetic else {})
    return next_lease(desk.ledger, STUDY, owner=f"{arithmetic}", meta=meta, **options)


def test_of_two_unlike_workers_at_once_one_begins(desk: Desk) -> None:
    lease = claim(desk, HERE)
    with pytest.raises(OtherArithmetic, match=r"^trial 0 of .* \(cpu: AVX2 → AVX512\), so results"):
        claim(desk, THERE)
    assert claim(desk, HERE).number == 1
    desk.ledger.release(f"{HERE}", blameless=True)
    assert claim(desk, THERE).number == 0  # no epoch was computed before
    desk.ledger.release(f"{THERE}", blameless=True)
    assert lease.number == 0


def test_epochs_and_results_bind_a_study(desk: Desk) -> None:
    lease = claim(desk, HERE)
    desk.ledger.report(lease, curve(1))
    desk.ledger.release(f"{HERE}", blameless=True)
    with pytest.raises(OtherArithmetic):
        claim(desk, THERE)
    assert claim(desk, THERE, mixed=True).number == 0
    with pytest.raises(OtherArithmetic):
        claim(desk, HERE)


def test_trials_of_earlier_versions_are_taken_for_any(desk: Desk) -> None:
    desk.ledger.report(claim(desk, None), curve(1))
    assert claim(desk, HERE).number == 1
    assert summary([{}, {"arithmetic": HERE}]) == (
        "one: 1 × cpu AVX2, torch 2.9_%; 1 × unknown, of an earlier version"
    )


def test_a_study_that_grew_with_a_new_version_is_not_said_to_be_mixed() -> None:
    """The older fingerprint leaves out what the newer one states."""
    newer = {**HERE, "proposals": "numpy 2"}
    said = summary([{"arithmetic": HERE}, {"arithmetic": newer}, {"arithmetic": newer}])
    assert said.startswith("one: 1 × cpu AVX2, torch 2.9_%; 2 × cpu AVX2, torch 2.9_%, proposals")
    other = {**newer, "proposals": "numpy 3"}
    metas = [{"arithmetic": each} for each in (newer, HERE, other)]
    assert summary(metas).startswith("mixed: ")


@pytest.fixture
def begun(request: pytest.FixtureRequest, tmp_path: Path) -> Sweep:
    """A sweep whose first three trials were computed here; its file asks for one more."""
    raw = sweep(search={"trials": 3})
    first = once(request, "begun", lambda root: run(make_sweep(root, raw), 0))
    shutil.copytree(first, tmp_path / "clone")
    space = tmp_path / "clone" / "search_spaces" / "tiny.yaml"
    space.write_text(json.dumps(sweep(search={"trials": 4})))
    return Sweep(tmp_path / "clone", parse_space("tiny", raw, str(space)))


def run(made: Sweep, code: int, stage: str = "search", **environment: str) -> None:
    command = made.start(stage, 1, **environment)
    with no_one_left(command):
        assert command.wait(120) == code, made.errors


@pytest.mark.slow
@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="needs a vector unit"
)
def test_a_repetition_elsewhere_says_that_it_is_elsewhere(begun: Sweep) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ATEN_CPU_CAPABILITY": "default"}
    program = [sys.executable, "-m", "pipeline", "reproduce", "tiny", "1", "--study"]
    done = subprocess.run([*program, begun.study.id], cwd=begun.root, env=environment,
                          capture_output=True, text=True)  # fmt: skip
    assert done.stdout.startswith("trial 1 differs first in epoch "), done.stderr
    assert "(this machine computes otherwise than its record: cpu: " in done.stdout
    assert "→ DEFAULT" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="needs a vector unit"
)
def test_a_worker_of_another_kind_is_refused_unless_it_may_join(begun: Sweep) -> None:
    before, parts = begun.errors, len(begun.ledger.parts(begun.study.id))
    run(begun, 2, ATEN_CPU_CAPABILITY="default")
    lines = begun.errors.removeprefix(before).splitlines()
    assert lines[-1].startswith(f"error: trial 0 of {begun.study.id} was computed with other")
    assert "→ DEFAULT" in lines[-1]
    assert lines[-1].endswith("or set `mixed_arithmetic: true` in machine.yaml")
    assert "Traceback" not in begun.errors
    assert len(begun.trials()) == 3
    begun.more = "mixed_arithmetic: true\n"
    run(begun, 0, ATEN_CPU_CAPABILITY="default")
    best = read_json(begun.paths.search / "best.json")["arithmetic"]
    assert best.startswith(f"mixed: {parts} × device cpu, torch ")
    assert f"  arithmetic: {best}" in status_text(begun.root, Machine(tracking="none"), "tiny", [])
    study, *trials = Mirrored(begun.space, begun.paths, begun.ledger, done="prepare").changes()
    assert study.tags["arithmetic"] == best
    assert {"DEFAULT" in trial.tags["arithmetic"] for trial in trials} == {True, False}
