"""From an MLflow run back to what made it: code, data, environment, seeds, commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.machine import Machine
from pipeline.paths import Paths, read_json
from pipeline.seeds import derive_seed, digest
from pipeline.study.ledger import Ledger, storage_url
from pipeline.tracking.lookup import find_run
from pipeline.tracking.store import MirrorUnavailable, store_of

COMMON = ("git_commit", "git_dirty", "lock_sha256", "torch", "host", "device")


def where_text(root: Path, machine: Machine, run_id: str) -> str:
    """The origin of a run and the commands that recreate it. Raises UserError if it is unknown."""
    try:
        name, tags = find_run(store_of(machine, Paths(root, ""))[0], run_id)
    except MirrorUnavailable as error:
        raise UserError(f"where {run_id}: {error}: start it, then try again") from None
    if "kind" not in tags:
        raise UserError(
            f"where {run_id}: this run of experiment {name} was not made by this pipeline: choose"
            " a study, trial or candidate"
        )
    paths, ledger = Paths(root, name), Ledger(storage_url(machine, Paths(root, "")))
    study = tags.get("search_study", tags["study"])
    if tags["kind"] == "study":  # a study has no lineage of its own, its trials have
        tags = _lineage(ledger, study) | tags
    lines = [
        f"run         {tags['mlflow.runName']}, of sweep {name}, study {tags['study']}",
        f"git commit  {_commit(tags)}",
        f"data        sha256 {tags['data_sha256']}",
        f"dvc.lock    {_dvc_entry(root, paths, tags, study)}",
        f"lock file   {_lock_file(root, tags.get('lock_sha256', ''))}",
        f"seeds       {_seeds(ledger, name, tags)}",
        f"made on     {tags.get('host', '?')}, {tags.get('device', '?')}, torch"
        f" {tags.get('torch', '?')}",
        "",
        *(f"    {command}" for command in commands(name, tags)),
    ]
    return "\n".join(lines)


def commands(name: str, tags: dict[str, str]) -> list[str]:
    """What to type to have the run again."""
    commit = tags.get("git_commit")
    first = [f"git checkout {commit}"] if commit else []
    data = f"dvc repro prepare@{name}    # or, from a DVC remote: dvc pull prepare@{name}"
    if tags["kind"] == "trial":
        again = f"python -m pipeline reproduce {name} {tags['number']}"
        return [*first, "make .venv", data, again]
    return [*first, "make .venv", f"dvc repro render@{name}    # or: python -m pipeline run {name}"]


def _commit(tags: dict[str, str]) -> str:
    if not tags.get("git_commit"):
        return "not recorded: the sweep ran outside of a Git repository"
    if tags.get("git_dirty") == "True":
        return f"{tags['git_commit']} with uncommitted changes, which are not recorded"
    return f"{tags['git_commit']}, nothing uncommitted"


def _lock_file(root: Path, recorded: str) -> str:
    if not recorded:
        return "not recorded: there was no requirements.lock"
    lock = root / "requirements.lock"
    now = digest(lock.read_text(encoding="utf-8")) if lock.exists() else ""
    return f"digest {recorded}, {'as' if now == recorded else 'not as'} requirements.lock here"


def _seeds(ledger: Ledger, name: str, tags: dict[str, str]) -> str:
    spec = _spec(ledger, name, tags["study"])
    if spec is None:
        return "the study is not in this checkout's ledger"
    if tags["kind"] == "study":
        return f"search {spec['search']['seed']}"
    label, seed = ("seed", spec["seed"]) if "seed" in spec else ("trial", spec["search"]["seed"])
    return f"search {seed}, this run {derive_seed(seed, label, int(tags['number']))}"


def _spec(ledger: Ledger, name: str, study: str) -> dict[str, Any] | None:
    return (ledger.studies(name, "search") | ledger.studies(name, "candidate")).get(study)


def _lineage(ledger: Ledger, study: str) -> dict[str, str]:
    """What the newest trial of a study records of where it comes from."""
    trials = ledger.trials(study)
    meta = trials[-1].meta if trials else {}
    return {key: str(meta[key]) for key in COMMON if key in meta}


def _dvc_entry(root: Path, paths: Paths, tags: dict[str, str], study: str) -> str:
    """The stage entry of dvc.lock that holds the run's study, as far as it still does."""
    stage = "retrain" if tags["kind"] == "candidate" else "search"
    entry = f"{stage}@{paths.name}"
    outs = _locked_outs(root, entry)
    if outs is None:
        return f"has no entry {entry}"
    best = paths.search / "best.json"
    if not best.exists() or read_json(best)["study"] != study:
        return f"{entry} is of another study by now: see its history in Git"
    return f"{entry}: " + ", ".join(f"{Path(out['path']).name} {out['md5']}" for out in outs)


def _locked_outs(root: Path, entry: str) -> list[dict[str, Any]] | None:
    import yaml

    lock = root / "dvc.lock"
    if not lock.exists():
        return None
    stages = yaml.safe_load(lock.read_text(encoding="utf-8"))["stages"]
    return stages[entry]["outs"] if entry in stages else None
