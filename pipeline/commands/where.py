"""From an MLflow run back to what made it: code, data, environment, seeds, commands."""

from __future__ import annotations

import errno
import hashlib
import re
import shlex
import tempfile
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.files import atomic_path, write_text
from pipeline.paths import Paths
from pipeline.results.record import checked, is_made
from pipeline.results.states import Kind
from pipeline.seeds import digest, trial_seed
from pipeline.settings.machine import Machine
from pipeline.settings.space import NAME
from pipeline.settings.validation import read_yaml
from pipeline.study.receipt import read_studies
from pipeline.study.storage.ledger import Ledger
from pipeline.study.storage.readonly import reading
from pipeline.study.storage.rows import Trial
from pipeline.tracking.store import MirrorUnavailable, find_run, store_of
from pipeline.work.lineage import code_sha256, unpack

ELSEWHERE = "not known: the ledger of this checkout has no trials of the study"
OWN = "own"  # the folder of the sweep's own Python files
NOT_MINE = (errno.EACCES, errno.EPERM, errno.EROFS)  # of a checkout that another user has
COMMON = ("git_commit", "git_dirty", "code_sha256", "lock_sha256", "host")


def where_text(root: Path, machine: Machine, run_id: str) -> str:
    """The origin of a run and the commands that recreate it. Raises UserError if it is unknown."""
    try:
        name, tags = find_run(store_of(machine, Paths(root, "")).uri, run_id)
    except MirrorUnavailable as error:
        raise UserError(f"where {run_id}: {error}, then try again") from None
    if not _is_ours(name, tags):
        raise UserError(
            f"where {run_id}: this run of experiment {name} was not made by this pipeline: choose"
            " a study, trial or candidate"
        )
    with reading(machine, Paths(root, "")) as ledger:
        return _text(root, ledger, name, run_id, tags)


def _is_ours(name: str, tags: dict[str, str]) -> bool:
    """Whether a run has the tags that ours have. They become paths, and commands to be pasted."""
    is_run = tags.get("kind") in ("trial", "candidate")
    return (
        NAME.fullmatch(name) is not None
        and tags.keys() >= {"study", "data_sha256", "mlflow.runName"}
        and (tags.get("kind") == "study" or (is_run and tags.get("number", "").isdecimal()))
        and re.fullmatch("[0-9a-f]*", tags.get("git_commit", "")) is not None
    )


def _text(root: Path, ledger: Ledger, name: str, run_id: str, tags: dict[str, str]) -> str:
    paths, trials = Paths(root, name), _trials(ledger, tags)
    is_study = tags["kind"] == "study"
    if is_study:  # which has no lineage of its own, its trials have
        tags = _lineage(trials) | tags
    source = _source(ledger, trials)
    try:
        saved = _save(paths.state / "origins" / run_id, name, source)
    except OSError as error:
        if error.errno not in NOT_MINE:
            raise
        saved = _save(Path(tempfile.mkdtemp(prefix="origin-")), name, source)
    known = bool(trials) or not is_study
    elsewhere = ELSEWHERE
    if kept := tags.get("kept"):  # and not gone on with since, which is its last part's lineage
        known = known and "git_commit" in tags
        elsewhere = f"those of {kept}, as which it was trained and then kept"
    arithmetic = tags.get("arithmetic") or "arithmetic not recorded"
    made_on = f"{tags.get('host', 'a host that is not recorded')}, {arithmetic}"
    own = sorted(source.get("files", ()))
    lines = [
        f"run         {tags['mlflow.runName']}, of sweep {name}, study {tags['study']}",
        f"git commit  {_commit(tags, source) if known else elsewhere}",
        *([f"own files   {', '.join(own)}: kept with the run"] if own else []),
        f"code        {_code(tags) if known else elsewhere}",
        f"data        sha256 {tags['data_sha256']}",
        f"dvc.lock    {_dvc_entry(root, paths, tags)}",
        f"lock file   {_lock_file(root, tags.get('lock_sha256', '')) if known else elsewhere}",
        f"seeds       {_seeds(ledger, name, tags, trials)}",
        f"made on     {made_on if known else elsewhere}",
        "",
        *(f"    {command}" for command in commands(name, tags, saved)),
    ]
    return "\n".join(lines)


def commands(name: str, tags: dict[str, str], saved: list[Path]) -> list[str]:
    """What to type in a clone to have the run again; `saved` holds what is not in Git."""
    commit = tags.get("git_commit")
    first = [f"git checkout {commit}"] if commit else []
    for file in saved:
        quoted = shlex.quote(str(file))
        typed = {".patch": f"git apply {quoted}", "": f"cp -R {quoted}/. ."}
        first.append(typed.get(file.suffix, f"cp {quoted} search_spaces/{file.name}"))
    if tags["kind"] == "trial":
        again = [
            f"python -m pipeline prepare {name}",
            f"python -m pipeline search {name}    # or, beside the ledger that has the trial:"
            f" python -m pipeline reproduce {name} {tags['number']}",
        ]
    else:
        again = [
            f"python -m pipeline run {name}    # or, if params.yaml lists it: dvc repro"
            f" render@{name}"
        ]
    return [*first, "make .venv", *again]


def _trials(ledger: Ledger, tags: dict[str, str]) -> list[Trial]:
    """The trials of a study, or the trial of a run, that the ledger has."""
    trials = ledger.trials(tags["study"])
    return [t for t in trials if tags["kind"] == "study" or str(t.number) == tags["number"]]


def _source(ledger: Ledger, trials: list[Trial]) -> dict[str, Any]:
    """What the ledger keeps of a trial's settings and uncommitted changes; {} if nothing."""
    key = trials[-1].meta.get("source") if trials else None
    return ledger.origin(trials[-1].study, key) if key else {}


def _save(folder: Path, name: str, source: dict[str, Any]) -> list[Path]:
    """Writes changes, own files and the sweep's file, in the order in which they are applied.

    Raises UserError for own files that would lie elsewhere: the ledger may be somebody else's.
    """
    saved = []
    if source.get("diff"):
        saved.append(folder / "changes.patch")
        with atomic_path(saved[-1]) as temporary:
            temporary.write_bytes(unpack(source["diff"]))
    if "files" in source:
        saved.append(folder / OWN)
    for file, text in source.get("files", {}).items():
        if not (path := (folder / OWN / file).resolve()).is_relative_to((folder / OWN).resolve()):
            raise UserError(f"where: {file} of sweep {name} is no file of a checkout: see whose"
                            " ledger it is")  # fmt: skip
        write_text(path, text)
    if "space" in source:
        saved.append(folder / f"{name}.yaml")
        write_text(saved[-1], source["space"])
    return saved


def _commit(tags: dict[str, str], source: dict[str, Any]) -> str:
    if not tags.get("git_commit"):
        return "not recorded: the sweep ran outside of a Git repository"
    if tags.get("git_dirty") not in ("True", "False"):
        return f"{tags['git_commit']}; whether anything was uncommitted is not known"
    if tags["git_dirty"] == "False":
        return f"{tags['git_commit']}, nothing uncommitted"
    kept = "kept with the run" if source.get("diff") else "which are not recorded"
    if "diff" in source and source["diff"] is None:
        kept = "too large to be kept: commit them before a sweep"
    return f"{tags['git_commit']} with uncommitted changes, {kept}"


def _code(tags: dict[str, str]) -> str:
    recorded = tags.get("code_sha256", "")
    if not recorded:
        return "not recorded"
    return f"digest {recorded}, {'as' if code_sha256() == recorded else 'not as'} here"


def _lock_file(root: Path, recorded: str) -> str:
    if not recorded:
        return "not recorded: there was no requirements.lock"
    lock = root / "requirements.lock"
    now = digest(lock.read_text(encoding="utf-8")) if lock.exists() else ""
    return f"digest {recorded}, {'as' if now == recorded else 'not as'} requirements.lock here"


def _seeds(ledger: Ledger, name: str, tags: dict[str, str], trials: list[Trial]) -> str:
    studies = ledger.studies(name, Kind.SEARCH) | ledger.studies(name, Kind.CANDIDATE)
    if (spec := studies.get(tags["study"])) is None:
        return "the study is not in this checkout's ledger"
    if tags["kind"] == "study":
        return f"search {spec['search']['seed']}"
    fresh = "seed" in spec  # a candidate's
    seed = spec["seed"] if fresh else spec["search"]["seed"]
    own = trials[0].kept if trials else None
    this = own["seed"] if own else trial_seed(seed, int(tags["number"]), fresh=fresh)
    return f"search {seed}, this run {this}"


def _lineage(trials: list[Trial]) -> dict[str, str]:
    """What the newest of a study's trials records of where it comes from."""
    meta = trials[-1].meta if trials else {}
    return {key: str(meta[key]) for key in COMMON if key in meta}


def _dvc_entry(root: Path, paths: Paths, tags: dict[str, str]) -> str:
    """The stage entry of dvc.lock that holds the run's study, as far as it still does."""
    file = paths.runs_record if tags["kind"] == Kind.CANDIDATE else paths.search_record
    stage, name = file.parent.name, file.name
    entry = f"{stage}@{paths.name}"
    outs = _locked_outs(root, entry)
    if outs is None:
        return f"has no entry {entry}"
    if not is_made(paths, stage):
        return f"{entry}: runs/{paths.name}/{stage} is not here to tell whether it is of the study"
    digests = {Path(out["path"]).name: out["md5"] for out in outs}
    content = checked(paths, file).read_bytes()
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != digests.get(name):
        return f"{entry} is of other outputs than are here: see its history in Git"
    if tags["study"] not in [each["study"] for each in read_studies(file)]:
        return f"{entry} is of another study by now: see its history in Git"
    return f"{entry}: " + ", ".join(f"{name} {md5}" for name, md5 in digests.items())


def _locked_outs(root: Path, entry: str) -> list[dict[str, Any]] | None:
    lock = root / "dvc.lock"
    if not lock.exists():
        return None
    try:
        outs: list[dict[str, Any]] | None = (
            read_yaml(lock, "dvc.lock")["stages"].get(entry, {}).get("outs")
        )
        return outs
    except (KeyError, AttributeError):
        raise UserError("dvc.lock must hold what DVC writes: restore it from Git") from None
