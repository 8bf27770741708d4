"""`retry`: failed trials are opened again, and with them what was decided after seeing them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import UserError
from pipeline.files import read_json
from pipeline.paths import Paths
from pipeline.results.record import checked, prepared_sha256
from pipeline.results.states import Kind, State
from pipeline.settings.machine import Machine
from pipeline.settings.space import Space, load_space
from pipeline.study.identity import Study, candidate_study, search_study
from pipeline.study.storage.ledger import Ledger, storage_url
from pipeline.study.storage.readonly import has_ledger
from pipeline.study.storage.reopen import AtWork, Reopening, reopen, to_reopen
from pipeline.study.storage.rows import Part


def retry_failed(root: Path, machine: Machine, name: str, number: int | None) -> list[str]:
    """Says what it has opened of the sweep's present studies: all failed trials and runs, or one
    trial of the search.

    Raises UserError if there is nothing to try again or someone works on it; then nothing changed.
    """
    space, paths = load_space(root, name), Paths(root, name)
    if not paths.manifest.exists():
        raise UserError(f"retry {name}: no data: run `python -m pipeline prepare {name}` first")
    data = prepared_sha256(paths)
    nothing = f"retry {name}: nothing has failed: there is nothing to try again"
    if not has_ledger(machine, paths):
        raise UserError(nothing)
    with closing(Ledger(storage_url(machine, paths))) as ledger:
        study = search_study(space, data)
        parts = ledger.parts(study.id)
        try:
            failed, seeing = to_reopen(parts, number)
        except ValueError:
            raise UserError(
                f"retry {name}: trial {number} must be one that failed, but study {study.id} has"
                f" {[p.trial for p in parts if p.state == State.FAILED and not p.kept]}: choose one"
                " of those"
            ) from None
        opened = [(study, parts, failed, seeing)] if failed else []
        if number is None:
            for candidate in _candidates(space, paths, data):
                runs = ledger.parts(candidate.id)
                lost = [run.number for run in runs if run.state == State.FAILED]
                opened += [(candidate, runs, lost, [])] if lost else []
        if not opened:
            raise UserError(nothing)
        with ExitStack() as locks:
            for each, _, _, _ in opened:
                locks.enter_context(_nobody_at_work(paths, each, name))
            these = [Reopening(s.id, lost, after, len(known)) for s, known, lost, after in opened]
            reopen(ledger, *these)
    return [
        *(_said(*each) for each in opened),
        f"go on with `python -m pipeline run {name}`, or `dvc repro --force` its stages",
    ]


def _candidates(space: Space, paths: Paths, data: str) -> list[Study]:
    """The present ones, if the search has ended."""
    if not paths.best.exists():
        return []
    entries = read_json(checked(paths, paths.best))["ranking"][: space.retrain.top]
    return [candidate_study(space, data, entry["parameters"]) for entry in entries]


def _said(study: Study, parts: list[Part], failed: list[int], seeing: list[int]) -> str:
    what = "trials" if study.kind == Kind.SEARCH else "runs"
    numbers = ", ".join(str(parts[number].trial) for number in failed)
    text = f"{study.kind} {study.id}: {what} {numbers} are open again"
    if seeing:
        text += f", and {len(seeing)} of {len(parts)} parts, which had seen them, are planned anew"
    return text


@contextmanager
def _nobody_at_work(paths: Paths, study: Study, name: str) -> Iterator[None]:
    """No crew on this host, and no worker on any. Raises UserError."""
    folder = paths.study(study.id)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0):
            yield
    except (Timeout, AtWork) as error:
        busy = error if isinstance(error, AtWork) else study.id
        raise UserError(
            f"retry {name}: study {busy} is being worked on: wait for its end or stop it first"
        ) from None
