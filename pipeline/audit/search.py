"""The search: its identity, proposals, prunings, budget, tables and ranking."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.audit import epochs
from pipeline.audit.book import Book
from pipeline.audit.text import different
from pipeline.errors import UserError
from pipeline.paths import Paths
from pipeline.results.states import Kind, State
from pipeline.settings.hyperparameters import Value
from pipeline.settings.search_section import PRUNERS
from pipeline.settings.space import Space
from pipeline.study.identity import changes
from pipeline.study.ranking import best_record, ranked, unranked
from pipeline.study.receipt import part_record, recorded_part
from pipeline.study.search.beginning import beginning
from pipeline.study.search.clock import cost_of
from pipeline.study.search.constraints import within
from pipeline.study.search.numerics import of_proposals
from pipeline.study.search.plan import Planner, belonging
from pipeline.study.search.propose import proposer_of
from pipeline.study.search.prune import should_prune
from pipeline.study.storage.arithmetic import difference
from pipeline.study.storage.rows import Part, Trial, trials_of
from pipeline.study.tables import curves_table, trials_table
from pipeline.vae.schedule import kl_warmup_end
from pipeline.vae.setting import read_setting

if TYPE_CHECKING:
    import pandas as pd

FILE = "search/study.json"
FOLLOWS = ("trial", "since", "until", "cost", "starts", "follows")  # of a part, from those before


def findings(book: Book) -> Iterator[str]:
    """What does not follow in search/."""
    space, study, parts = book.space, book.study, book.parts
    for change in changes(book.search["spec"], study.spec):
        yield f"{FILE}: spec: {change} by the settings and the data"
    if book.search["study"] != study.id:
        yield f"{FILE}: study {book.search['study']} is not the {study.id} of its settings and data"
    yield from entry(FILE, book.search, Kind.SEARCH)
    numbers = [part.number for part in parts]
    if numbers != list(range(len(parts))):
        yield f"{FILE}: parts are numbered {numbers}, not 0 to {len(parts) - 1}"
        return  # what a part has seen cannot be told
    for part in parts:
        for line in _alone(space, part, book.counts["train"]):
            yield f"{FILE}: {_name(part)}: {line}"
    trials = trials_of(parts)
    yield from sizes(FILE, space, trials)
    try:
        begins = beginning(space, book.paths, study.id, book.manifest)
    except UserError as error:
        yield f"{FILE}: what it began with cannot be told: {error}"
    else:
        yield from _kept(parts, begins.parts)
        yield from _course(book, parts, begins.informing)
    yield from _outputs(book, parts, trials)


def entry(file: str, study: dict[str, Any], kind: Kind) -> Iterator[str]:
    """A study's entry holds what is written of one, and nothing else."""
    if study["kind"] != kind:
        yield f"{file}: {study['study']} is said to be of kind {study['kind']}, not {kind}"
    strange = study.keys() - {"study", "kind", "spec", "trials"}
    for record in study["trials"]:
        strange |= record.keys() - part_record(recorded_part("", record)).keys()
    if strange:
        yield f"{file}: {', '.join(sorted(strange))} is nothing that is recorded of a study"


def _name(part: Part) -> str:
    """A part as a person knows it."""
    return f"trial {part.trial}" + (f" after epoch {part.since}" if part.since else "")


def sizes(file: str, space: Space, trials: Sequence[Trial]) -> Iterator[str]:
    """Models of one architecture have equally many weights."""
    known, names = dict[str, int](), space.kind.of_the_model()
    for trial in trials:
        if trial.result is None:
            continue
        config = space.hyperparameters(trial.parameters or {}).model_dump()
        weights = trial.result.get("weights")  # those of a dropped candidate are not said
        if weights is None:
            continue
        if known.setdefault(str([config[key] for key in names]), weights) != weights:
            yield f"{file}: trial {trial.number}: {weights} weights, but others of its kind differ"


def _alone(space: Space, part: Part, images: int) -> Iterator[str]:
    if part.parameters is None:
        yield "has no parameters"
        return
    setting = read_setting(space.record(part.parameters))
    yield from epochs.findings(setting, space.search.epochs, images, part, part.until)


def _kept(parts: Sequence[Part], due: Sequence[Part]) -> Iterator[str]:
    """What is said to be kept and is not in the table, or the other way round."""
    stated = [part_record(part) for part in parts if part.kept]
    records = json.loads(json.dumps([part_record(part) for part in due]))
    if len(stated) != len(records):
        yield f"{FILE}: has {len(stated)} kept parts, but its table gives {len(records)}"
        return
    for record, right in zip(stated, records, strict=True):
        for key in right:
            if record.get(key) != right[key]:
                yield f"{FILE}: trial {right['trial']}: {key} is not that of the kept trial"


def _course(book: Book, parts: list[Part], informing: Sequence[dict[str, Value]]) -> Iterator[str]:
    """Plays the search forward: the place of each part, who was promoted, what was proposed."""
    space, images = book.space, book.counts["train"]
    channels, height, width = book.manifest["shape"]
    shape = (channels, height, width)
    planner, cost = Planner(space), cost_of(space, shape, images)
    proposer = proposer_of(space, within(space, shape), informing)
    if space.search.total_epochs or not space.searched:
        admitted = belonging(space, parts)
        if len(admitted) != len(parts) or (not space.searched and parts):
            yield f"{FILE}: has {len(parts)} parts, but its budget admits {len(admitted)}"
            return
    for part in parts:
        if part.kept:
            planner.update([part])
            continue
        if planner.next() is None:
            yield f"{FILE}: {_name(part)}: was not due: the budget was spent"
            return
        try:
            due = planner.plan(proposer.propose, cost, 0)
        except Exception as error:  # the samplers take no values that no study can have
            yield f"{FILE}: {_name(part)} cannot be proposed again: {error}".splitlines()[0]
            return
        assert due is not None
        if part.curve[: due.since] != due.curve:
            yield f"{FILE}: {_name(part)}: does not go on from what it was before"
        wrong = {k: getattr(part, k) for k in FOLLOWS if getattr(part, k) != getattr(due, k)}
        if wrong:
            right = {key: getattr(due, key) for key in wrong}
            yield f"{FILE}: part {part.number}: {wrong} does not follow, but {right}"
            return
        if part.parameters != due.parameters:
            yield f"{FILE}: {_name(part)}: {_other(part, due.parameters)}"
            return
        planner.update([part])
        yield from _prunings(space, part, planner)
    if planner.next() is not None or not planner.over:
        yield f"{FILE}: has {len(parts)} parts, but its budget admits more"


def _other(part: Part, due: dict[str, Any]) -> str:
    given = part.parameters or {}
    wrong = {k: given.get(k) for k in due.keys() | given.keys() if given.get(k) != due.get(k)}
    right = {key: due.get(key) for key in wrong}
    other = difference(part.meta.get("arithmetic", {}), of_proposals())
    where = f" on this machine, which computes otherwise ({other})" if other else ""
    return f"{wrong} was not proposed, but {right}{where}"


def _prunings(space: Space, part: Part, planner: Planner) -> Iterator[str]:
    """A trial is pruned where the rule says so, and nowhere else."""
    search, values = space.search, [record["nelbo_nats"] for record in part.curve]
    if search.pruner not in PRUNERS:
        if part.state == State.PRUNED:
            yield f"{FILE}: {_name(part)}: is pruned, but nothing prunes"
        return
    others = planner.curves(part.number)
    setting = read_setting(space.record(part.parameters or {}))
    first = kl_warmup_end(setting, search.epochs) + 1
    # A failure's last epoch may have ended it: it was broken, or it killed its workers.
    ends = len(values) - (part.state in (State.FAILED, State.COMPLETE))
    for epoch in range(1, ends + 1):
        due = should_prune(search, values[:epoch], others, first)
        is_pruned = part.state == State.PRUNED and epoch == len(values)
        if due and not is_pruned:
            yield f"{FILE}: {_name(part)}: goes on after epoch {epoch}, where it is pruned"
            return
        if is_pruned and not due:
            yield f"{FILE}: {_name(part)}: is pruned after epoch {epoch}, where it goes on"


def _outputs(book: Book, parts: list[Part], trials: list[Trial]) -> Iterator[str]:
    space, paths = book.space, book.paths
    yield from _table(paths, "trials", trials_table(trials, list(space.searched)))
    yield from _table(paths, "curves", curves_table(trials))
    fallback: dict[str, Any] = space.search.fallback or {} if space.searched else {}
    ranking = ranked(trials) or unranked(fallback)
    due = best_record(space, book.study.id, parts, ranking)
    for change in changes(book.best, due):
        yield f"search/best.json: {change} by the trials"


def _table(paths: Paths, name: str, due: pd.DataFrame) -> Iterator[str]:
    file = paths.search / f"{name}.csv"
    yield from different(f"search/{name}.csv", file.read_text(), due.to_csv(index=False))
