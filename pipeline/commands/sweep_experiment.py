"""A night as an experiment of DVC, without a stage being run once more.

It is made in a clone where DVC has its own copies, so that neither the files that somebody edits
nor a `dvc repro` are touched: the night's commit, what was changed since and the files that
spaces name, each sweep with the budget that its outputs have, and the outputs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from pipeline.errors import UserError
from pipeline.paths import COPIES, STAGES, Paths
from pipeline.results.record import is_current
from pipeline.settings.snapshot import own_data, read
from pipeline.settings.space import Space, load_space
from pipeline.study.budget import budget_of
from pipeline.work.budget_file import as_made

SECONDS = 300.0  # of a command
# Of DVC's own: comments of the file stay. Arguments: PATH, then KEY.KEY=JSON.
SET = """import json, sys
from dvc.utils.serialize import modify_yaml
with modify_yaml(sys.argv[1]) as content:
    for word in sys.argv[2:]:
        keys, _, value = word.partition("=")
        *above, last = keys.split(".")
        place = content
        for key in above:
            place = place.setdefault(key, {})
        place[last] = json.loads(value)
"""


def save_experiment(
    root: Path, experiment: str, names: list[str], commit: str, diff: bytes | None
) -> None:
    """Keeps the outputs of these sweeps as an experiment of the commit that they were made at.

    `diff` is what differed from it then. Raises UserError with the reason why it could not.
    """
    if not (root / ".dvc").is_dir() or not (root / ".git").exists() or diff is None:
        raise UserError("this folder is not the top of a Git repository with DVC")
    place = root.joinpath(*COPIES)
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{experiment}-", dir=place) as folder:
        clone = Path(folder)
        _git(root, "clone", "--quiet", "--shared", "--no-checkout", str(root), folder)
        _git(clone, "checkout", "--quiet", "--detach", commit)
        if diff:
            _git(clone, "apply", "--index", "--whitespace=nowarn", "-", given=diff)
        _share_cache(root, clone)
        for name in names:
            _copy_outputs(root, clone, name)
        _set(clone / "params.yaml", f"spaces={json.dumps(names)}")
        own_data(clone)
        _dvc(clone, "commit", "--quiet", "--force")  # else dvc.lock is left out, where it is new
        _dvc(clone, "exp", "save", "--quiet", "--name", experiment)
        refs = _git(clone, "for-each-ref", "--format=%(refname)", "refs/exps").splitlines()
        (ref,) = (each for each in refs if each.endswith(f"/{experiment}"))
        _git(root, "fetch", "--quiet", folder, f"{ref}:{ref}")


def _share_cache(root: Path, clone: Path) -> None:
    """Has the clone put files where the checkout has its own."""
    local = root / ".dvc" / "config.local"
    if local.exists():
        shutil.copy(local, clone / ".dvc")
    _dvc(clone, "config", "--local", "cache.dir", _dvc(root, "cache", "dir"))
    for key in ("user.name", "user.email"):
        known = _run(root, ["git", "config", key]).stdout.decode().strip()
        _git(clone, "config", key, known or "vae-pipeline")


def _copy_outputs(root: Path, clone: Path, name: str) -> None:
    there, here = Paths(root, name), Paths(clone, name)
    _copy_named(root, clone, read(there))
    asked = load_space(clone, name)
    made = as_made(asked, there)
    if not is_current("render", made, there):
        raise UserError(f"search_spaces/{name}.yaml was edited when the night had begun")
    before, budget = budget_of(asked), budget_of(made)
    chosen = [f"{key}={json.dumps(budget[key])}" for key in budget if budget[key] != before[key]]
    if chosen:
        _set(clone / "search_spaces" / f"{name}.yaml", *chosen)
    for stage in ("settings", *STAGES):
        shutil.copytree(there.stage(stage), here.stage(stage))


def _copy_named(root: Path, clone: Path, space: Space) -> None:
    """Files that a space names, wherever they lie and whether or not Git knows them."""
    files = {file: source.text.encode() for file, source in space.sources.items()}
    if table := space.search.observations:
        files[table.file] = (root / table.file).read_bytes()
    for file, content in files.items():
        (clone / file).parent.mkdir(parents=True, exist_ok=True)
        (clone / file).write_bytes(content)
        _git(clone, "add", "--force", "--", file)


def _set(file: Path, *values: str) -> None:
    _done(file.parent, [sys.executable, "-c", SET, file.name, *values])


def _git(folder: Path, *command: str, given: bytes = b"") -> str:
    return _done(folder, ["git", *command], given)


def _dvc(folder: Path, *command: str) -> str:
    return _done(folder, [sys.executable, "-m", "dvc", *command])


def _done(folder: Path, argv: list[str], given: bytes = b"") -> str:
    """What a command prints. Raises UserError."""
    done = _run(folder, argv, given)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["without a word"]
        raise UserError(f"`{' '.join(argv[-3:])}` fails: {lines[-1]}")
    return done.stdout.decode().strip()


def _run(folder: Path, argv: list[str], given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    known = {**os.environ, "COLUMNS": "10000"}  # DVC breaks lines where a terminal would end
    try:
        return subprocess.run(
            argv, cwd=folder, input=given, capture_output=True, timeout=SECONDS, env=known
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(str(error)) from None
