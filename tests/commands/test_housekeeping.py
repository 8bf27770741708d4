"""list, clean and archive: what they say, what they delete, and what they never touch."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from crews import ROOT, SPACE, Sweep, make_sweep
from recording import record_stages
from rights import as_a_person
from studies import next_lease

from pipeline.__main__ import main
from pipeline.files import write_json
from pipeline.study.storage.claim import Claimant, Plan

Give = Callable[[str], tuple[int, str, str]]


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """A sweep with its study, an earlier fork of it, and files of both, in the current folder."""
    made = make_sweep(tmp_path / "clone")
    made.machine()
    (made.root / "search_spaces").mkdir(exist_ok=True)
    (made.root / "search_spaces" / "tiny.yaml").write_text(yaml.safe_dump(SPACE))
    ledger = made.ledger
    for study in ("tiny-fork", made.study.id):
        ledger.open_study(study, "tiny", "search", made.study.spec)
        lease = next_lease(ledger, study, owner="elsewhere/1/1")
        assert lease
        ledger.finish(lease, "complete", [], {"nelbo_nats": 25.0})
        folder = made.paths.trial(study, 0)
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(bytes(2_000_000))
        (folder / "checkpoint-1.safetensors").write_bytes(bytes(1_000_000))
    ledger.close()
    write_json(made.paths.search / "best.json", {"study": made.study.id, "nelbo_nats": 25.0,
                                                 "ranking": []})  # fmt: skip
    record_stages(made.paths, made.space, "search")
    monkeypatch.chdir(made.root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "none")
    return made


@pytest.fixture
def give(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Give:
    """Gives a command; its exit code, what it says, and its complaint."""

    def give(command: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pipeline", *command.split()])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return give


def files(made: Sweep) -> set[str]:
    return {str(p.relative_to(made.root)) for p in made.paths.runs.rglob("*.safetensors")}


def test_list_has_a_line_for_every_sweep_and_one_invalid_file_hides_no_other(
    tiny: Sweep, give: Give
) -> None:
    (tiny.root / "search_spaces" / "bad.yaml").write_text("data: {name: nonsense}")
    code, said, _ = give("list")
    head, bad, good = (line.split() for line in said.splitlines())
    assert code == 0
    assert head == ["sweep", "data", "state", "best", "winner", "size"]
    assert bad[:3] == ["bad", "invalid:", "search_spaces/bad.yaml:"]
    assert good[:6] == ["tiny", "digits", "search", "done", "25.00", "–"]
    code, said, complaint = give("status")
    assert code == 2
    assert f"search {tiny.study.id}: 1 trials" in said
    assert complaint.startswith("error: search_spaces/bad.yaml: data.name: must be")


def test_clean_frees_forks_and_keeps_what_goes_on(tiny: Sweep, give: Give) -> None:
    before = files(tiny)
    code, said, complaint = give("clean tiny")
    assert code == 2
    assert complaint == "error: clean: nothing is deleted without a terminal to ask on: add --yes\n"
    assert files(tiny) == before
    assert "3.0 MB  runs/state/studies/tiny-fork: an earlier fork" in said
    assert "4.0 MB in all" in said

    code, said, _ = give("clean tiny --yes")
    assert code == 0
    assert said.endswith("deleted\n")
    assert files(tiny) == {f"runs/state/studies/{tiny.study.id}/trial-00000/model.safetensors"}
    assert "tiny-fork" in tiny.ledger.studies("tiny", "search"), "rows are no files"
    assert give("clean tiny --yes")[1] == "nothing to clean\n"

    _, said, _ = give("clean tiny --yes --studies")
    assert "rows  tiny-fork: all its trials in the ledger" in said
    assert list(tiny.ledger.studies("tiny", "search")) == [tiny.study.id]
    assert len(tiny.ledger.trials(tiny.study.id)) == 1
    assert tiny.ledger.trials("tiny-fork") == []


def test_clean_asks_on_a_terminal(tiny: Sweep, give: Give, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(tiny)
    asked: list[str] = []
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda text: bool(asked.append(text)))
    code, said, _ = give("clean")
    assert (code, asked) == (0, ["delete these?"])
    assert "deleted" not in said
    assert files(tiny) == before


def test_clean_refuses_while_a_trial_is_held(tiny: Sweep, give: Give) -> None:
    ledger = tiny.ledger
    assert next_lease(ledger, tiny.study.id, owner="elsewhere/1/1")
    before = files(tiny)
    code, _, complaint = give("clean --yes")
    assert code == 2
    assert complaint.startswith("error: clean: no trial may be held, but 1 workers hold some")
    assert files(tiny) == before
    ledger.forget(tiny.study.id)  # nor are its rows deleted
    assert len(ledger.trials(tiny.study.id)) == 2


def test_clean_finds_what_a_killed_run_had_put_aside(tiny: Sweep, give: Give) -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.paths import Paths;"
        "from pipeline.commands.run_by_deadline import _as_before_unless_done as aside\n"
        "with aside(Paths(Path.cwd(), 'tiny')): print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tiny.root,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as run:
        assert run.stdout
        run.stdout.readline()
        (place,) = tiny.paths.state.glob("aside-*")
        assert (place / "tiny" / "search" / "best.json").exists()
        assert place.name not in give("clean --yes")[1], "its command goes on"
        run.kill()
    assert f"{place.name}: outputs that a killed command had put aside" in give("clean --yes")[1]
    assert not place.exists()


def test_clean_without_data_deletes_no_study(tiny: Sweep, give: Give) -> None:
    """Whoever cannot tell which study is the present one leaves all alone."""
    (tiny.paths.prepare / "manifest.json").unlink()
    give("clean tiny --yes --studies")
    assert {"tiny-fork", tiny.study.id} == set(tiny.ledger.studies("tiny", "search"))
    assert any("model" in name and "fork" in name for name in files(tiny))


def test_an_archive_holds_all_that_a_look_needs_and_repeats(tiny: Sweep, give: Give) -> None:
    code, said, _ = give("archive tiny")
    assert (code, said) == (0, "tiny.tar\n")
    first = Path("tiny.tar").read_bytes()
    give("archive tiny --to other.tar")
    assert Path("other.tar").read_bytes() == first
    with tarfile.open("tiny.tar") as tar:
        names = tar.getnames()
        content = tar.extractfile("studies.json")
        assert content
        studies = json.load(content)
    assert {"search_spaces/tiny.yaml", "runs/tiny/search/best.json", "versions.json"} <= set(names)
    assert not [name for name in names if name.startswith("/") or ".." in name]
    assert list(studies) == [tiny.study.id]
    assert studies[tiny.study.id]["trials"][0]["result"] == {"nelbo_nats": 25.0}


def test_an_archive_has_every_part_of_a_trial(tiny: Sweep, give: Give) -> None:
    """From which promotions can be told; a trial alone knows of its last part only."""
    ledger = tiny.ledger
    for number, (since, until, state) in enumerate([(0, 3, "paused"), (3, 8, "complete")], 1):
        plan = Plan(number, 1, since, until, 0, number - 1, 1, {}, [], 0)
        lease = ledger.begin(tiny.study.id, plan, Claimant("elsewhere/1/1"))
        assert lease
        ledger.finish(lease, state, [], {"nelbo_nats": 24.0})
    ledger.close()
    give("archive tiny")
    with tarfile.open("tiny.tar") as tar:
        content = tar.extractfile("studies.json")
        assert content
        parts = json.load(content)[tiny.study.id]["trials"]
    assert [(p["trial"], p["since"], p["state"]) for p in parts] == [
        (0, 0, "complete"),
        (1, 0, "paused"),
        (1, 3, "complete"),
    ]


def test_check_tells_how_many_epochs_a_search_on_rungs_takes(
    tmp_path: Path, give: Give, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "search_spaces").mkdir()
    raw = {
        "data": {"name": "digits"},
        "parameters": {"lr": {"low": 1e-3, "high": 1e-2}},
        "search": {"trials": 27, "epochs": 9, "rungs": [1, 3, 9]},
        "retrain": {"top": 1, "seeds": 1, "epochs": 9},
    }
    (tmp_path / "search_spaces" / "new.yaml").write_text(yaml.safe_dump(raw))
    said = give("check new")[1]
    (line,) = (line for line in said.splitlines() if "that pause at epochs" in line)
    whole, searched = (
        int(number) for number in re.findall(r"about (\d+) .* some (\d+) for", line)[0]
    )
    assert whole == searched + 9
    assert 27 + 18 + 18 <= searched < 27 * 9 / 2, "a third goes on at each rung, and some more"
    assert "search and retrain, if nothing stops early" in said


def test_an_archive_of_nothing(tiny: Sweep, give: Give) -> None:
    (tiny.paths.prepare / "manifest.json").unlink()
    code, _, complaint = give("archive tiny")
    assert code == 2
    assert "holds no outputs: run `python -m pipeline run tiny` first" in complaint
    assert not Path("tiny.tar").exists()


def test_list_makes_no_ledger(tmp_path: Path, give: Give, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "search_spaces").mkdir()
    assert give("list")[:2] == (0, "no sweep yet: write search_spaces/NAME.yaml\n")
    (tmp_path / "search_spaces" / "new.yaml").write_text("data: {name: digits}")
    assert "new    digits  new    –     –       0.0 MB" in give("list")[1]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("none.npz", "data.path: must be a file, but there is none at"),
        ("text.npz", "text.npz: must be an npz file"),
    ],
)
def test_check_looks_at_the_data(
    path: str, complaint: str, tmp_path: Path, give: Give, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "search_spaces").mkdir()
    (tmp_path / "text.npz").write_text("no npz")
    text = f"data: {{name: npz, path: {path}}}"
    (tmp_path / "search_spaces" / "own.yaml").write_text(text)
    code, _, said = give("check own")
    assert code == 2
    assert complaint in said
    assert said.count("\n") == 1


def test_check_counts_own_images(
    tmp_path: Path, give: Give, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    monkeypatch.chdir(tmp_path)
    (tmp_path / "search_spaces").mkdir()
    np.savez(tmp_path / "own.npz", images=np.zeros((200, 8, 9, 3), np.uint8))
    text = "data: {name: npz, path: own.npz}\nparameters: {hidden: [8], latent_dim: 2}"
    (tmp_path / "search_spaces" / "own.yaml").write_text(text)
    code, said, _ = give("check own")
    assert code == 0
    assert "images     200 at " in said
    assert "3×8×9" in said
    # 216 pixels: (216 + 1) 8 + (8 + 1) 4 + (2 + 1) 8 + (8 + 1) 216
    assert "weights    3,740 at the centre\n" in said
    assert "forward    3,504 multiply-adds an image at the centre\n" in said
    assert re.search(r"a trial    about \d+ s for 5 epochs with the centre's setting\n", said)


@pytest.mark.parametrize(
    ("command", "code", "told"),
    [
        ("sync", 0, "sync: the ledger has no search: nothing to send\n"),
        ("sync tiny", 0, "sync tiny: the ledger has no search: nothing to send\n"),
        ("clean --yes", 0, "nothing to clean\n"),
        ("list", 0, ""),
        ("archive tiny", 0, "tiny.tar\n"),
        ("reproduce tiny 0", 2, "has 0 trials, and 0 is none"),
    ],
)
def test_no_command_but_those_that_train_makes_a_ledger(
    command: str, code: int, told: str, give: Give, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_sweep(tmp_path / "clone")  # prepared, and nothing searched
    (made.root / "search_spaces").mkdir(exist_ok=True)
    (made.root / "search_spaces" / "tiny.yaml").write_text(yaml.safe_dump(SPACE))
    monkeypatch.chdir(made.root)
    before = everything(made.paths.runs)
    ended, said, complaint = give(command)
    assert ended == code, complaint
    assert told in said + complaint
    assert everything(made.paths.runs) == before


def test_who_may_only_read_a_checkout_lists_and_archives_it(
    tiny: Sweep, give: Give, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    with read_only(tiny.paths.ledger), as_a_person():
        code, said, complaint = give("list")
        assert (code, complaint) == (0, "")
        assert said.splitlines()[1].split()[:5] == ["tiny", "digits", "search", "done", "25.00"]
        code, said, complaint = give(f"archive tiny --to {tmp_path}/out/tiny.tar")
        assert (code, complaint) == (0, "")
    with tarfile.open(tmp_path / "out" / "tiny.tar") as tar:
        member = tar.extractfile("studies.json")
        assert member
        assert len(json.load(member)[tiny.study.id]["trials"]) == 1


@contextmanager
def read_only(file: Path) -> Iterator[None]:
    """Nobody may write to the file or to its folder."""
    file.chmod(0o444)
    file.parent.chmod(0o555)
    try:
        yield
    finally:
        file.parent.chmod(0o755)
        file.chmod(0o644)


def everything(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))
