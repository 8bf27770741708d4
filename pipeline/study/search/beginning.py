"""What a search begins with: the kept trials that count as its own, and those that inform it.

A trial counts where nothing but the space has changed: the data, the likelihood, the objectives,
the epochs and the semantics of training are those of the study, and its setting is one that the
space can propose. It is then done, with its curve, as if it had ended before the search began: its
parts come first, without a place on the virtual clock. One that goes on from its rung trains from
its first epoch again, with its own seed: weights are not kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import UserError
from pipeline.files import read_json
from pipeline.paths import Paths
from pipeline.results.keys import KEPT
from pipeline.results.states import State
from pipeline.settings.hyperparameters import Value
from pipeline.settings.observations import Observations, found
from pipeline.settings.own_files import files_of
from pipeline.settings.search_section import PRUNERS
from pipeline.settings.space import Space
from pipeline.study.identity import TRAINING_SEMANTICS
from pipeline.study.search.clock import Cost, cost_of
from pipeline.study.search.constraints import within
from pipeline.study.search.informing import first_tried, observed
from pipeline.study.search.kept_table import Kept, Origin, read_table
from pipeline.study.search.plan import Planner
from pipeline.study.storage.rows import Part
from pipeline.vae.early_stopping import play

Fit = tuple[dict[str, Value] | None, str]  # the searched parameters; or why a trial does not count


@dataclass(frozen=True)
class Beginning:
    """The parts of the kept trials that count, those that inform, and why others do not."""

    parts: list[Part]
    left_out: dict[str, int]  # of those that could count; reason: how many
    informing: list[dict[str, Value]] = field(default_factory=list)  # settings to try first
    observations: int = 0  # that these are the best of
    passed_over: dict[str, int] = field(default_factory=dict)  # of those that could inform

    @property
    def trials(self) -> int:
        """How many are kept."""
        return len({part.trial for part in self.parts})

    def text(self) -> str:
        """In words."""
        every = self.trials + sum(self.left_out.values())
        said = f"{self.trials} of {every} kept trials count{_why(self.left_out)}"
        others = self.observations + sum(self.passed_over.values())
        informs = f"{self.observations} of {others} inform it{_why(self.passed_over)}"
        return f"{said}; {informs}" if others else said


def _why(reasons: dict[str, int]) -> str:
    why = ", ".join(f"{count} for {reason}" for reason, count in reasons.items())
    return f" (not {why})" if why else ""


def beginning(space: Space, paths: Paths, study: str, manifest: dict[str, Any]) -> Beginning:
    """What the search of `space` begins with, of the prepared data of this manifest.

    Raises UserError for a table that is gone, changed or broken, and where trials that do not count
    could not inform either.
    """
    if (given := space.search.observations) is None or not space.searched:
        return Beginning([], {})
    channels, height, width = manifest["shape"]
    shape, images = (channels, height, width), manifest["counts"]["train"]
    trials = table_of(given, paths, space.name)
    origins = {each.origin.study: each.origin for each in trials}
    unlike = {study: _unlike(space, each, manifest["sha256"]) for study, each in origins.items()}
    own = [each for each in trials if not unlike[each.line.study]]
    others = [each for each in trials if unlike[each.line.study]]
    if others:
        _check_learns(space, given.file, unlike[others[0].line.study])
    found = counted(space, study, own, within(space, shape), cost_of(space, shape, images))
    known, passed_over = observed(space.searched, others)
    informing = first_tried(space.searched, space.search, known, within(space, shape))
    left_out = Counter(found.left_out) + Counter(unlike[each.line.study] for each in others)
    return Beginning(
        found.parts, dict(sorted(left_out.items())), informing, len(known), passed_over
    )


def counted(
    space: Space,
    study: str,
    trials: Sequence[Kept],
    rule: Callable[[dict[str, Value]], bool],
    cost: Cost,
) -> Beginning:
    """Those of the trials that count, numbered from 0 in their order, as parts of the study.

    `rule` says whether a setting keeps the constraints, `cost` what an epoch costs on the clock.
    """
    planner = Planner(space)
    parts: list[Part] = []
    left_out: Counter[str] = Counter()
    number = 0
    for trial in trials:
        chosen, reason = fit(space, trial, rule, planner)
        if chosen is None:
            left_out[reason] += 1
            continue
        parts += _parts(space, planner, study, trial, chosen, number, len(parts), cost(chosen))
        number += 1
    return Beginning(parts, dict(sorted(left_out.items())))


def kept_trials(space: Space, paths: Paths) -> int:
    """How many kept trials count, as far as it can be told before the data are there: what they
    are, and what breaks `search.constraints`, it cannot. Raises UserError for a broken table."""
    if (given := space.search.observations) is None or not space.searched:
        return 0
    data = read_json(paths.manifest)["sha256"] if paths.manifest.exists() else None
    trials = [
        each
        for each in table_of(given, paths, space.name)
        if not _unlike(space, each.origin, data or each.origin.data)
    ]
    return counted(space, "", trials, lambda _: True, lambda _: 0).trials


def table_of(given: Observations, paths: Paths, name: str) -> list[Kept]:
    """The trials of the table that a space names. Raises UserError if it is another by now."""
    where = f"search_spaces/{name}.yaml"
    found(given, paths.root, where)
    try:
        text = (paths.root / given.file).read_text(encoding="utf-8")
    except ValueError:
        text = ""
    return read_table(text, f"{where}: search.observations: {given.file}")


def _unlike(space: Space, origin: Origin, data_sha256: str) -> str:
    """What of a study is another than of the search, so that its trials do not count."""
    own = {
        "data": data_sha256,
        "model": space.model.model_dump(mode="json"),
        "epochs": space.search.epochs,
        "objectives": list(space.search.objectives),
        "training_semantics": TRAINING_SEMANTICS,
    }
    return next((key for key, value in own.items() if getattr(origin, key) != value), "")


def _check_learns(space: Space, file: str, key: str) -> None:
    """Raises UserError for a search that other trials than its own cannot inform."""
    search = space.search
    if search.sampler in ("tpe", "gp") and len(search.objectives) == 1:
        return
    learns = f"sampler {search.sampler}" if len(search.objectives) == 1 else "two objectives"
    raise UserError(
        f"search_spaces/{space.name}.yaml: search.observations: {file}: has trials of other {key},"
        f" which do not count, and {learns} cannot be informed by them: write a table without them"
        " (`python -m pipeline keep NAME --study …`), or use tpe or gp with one objective"
    )


def fit(
    space: Space, trial: Kept, rule: Callable[[dict[str, Value]], bool], planner: Planner
) -> Fit:
    """The searched parameters with which the space has a trial's setting, and ends it there."""
    for key, name in (("family", trial.family), ("likelihood", space.model.likelihood)):
        for file in files_of([name]):
            here = space.sources.get(file)
            if here is None or here.sha256 != trial.origin.sources.get(file):
                return None, key
    theirs = {**space.kind.defaults(), **trial.setting}
    chosen: dict[str, Value] = {}
    for name, domain in space.searched.items():
        if domain.active(chosen):
            if not domain.holds(theirs[name]):
                return None, name
            chosen[name] = theirs[name]
    ours = space.hyperparameters(chosen).model_dump()
    for name, value in ours.items():
        if space.reads(trial.family, name) and theirs[name] != value:
            return None, name
    if not rule(chosen):
        return None, "search.constraints"
    return (chosen, "") if _ends(space, trial, chosen, planner) else (None, "search.pruner")


def _ends(space: Space, trial: Kept, chosen: dict[str, Value], planner: Planner) -> bool:
    """Whether a trial may stand where it does: no other pruner has ended it."""
    state = trial.line.state
    if state == State.PAUSED:
        pauses = space.search.pruner == "rungs"
        return pauses and len(trial.line.curve) >= planner.first_pause(chosen)
    return state != State.PRUNED or space.search.pruner in PRUNERS


def _parts(
    space: Space,
    planner: Planner,
    study: str,
    trial: Kept,
    chosen: dict[str, Value],
    number: int,
    first: int,
    cost: int,
) -> Iterator[Part]:
    """A part for each rung of this search that the trial has come to, and its end."""
    line, rungs = trial.line, planner.ladder.rungs
    epochs, last = len(line.curve), rungs[-1]
    paused = line.state == State.PAUSED or epochs > last
    come = [r for r in rungs if planner.first_pause(chosen) <= r <= epochs - (not paused)]
    ends = [(rung, State.PAUSED) for rung in come]
    if not paused:
        until = next(rung for rung in rungs if rung >= max(epochs, planner.first_pause(chosen)))
        ends.append((until, State(line.state)))
    from pipeline.vae.setting import read_setting  # late: it imports torch, which takes seconds

    played = play(read_setting(space.record(chosen)), space.search.epochs, line.curve)
    kept = {"study": line.study, "number": line.number, "seed": line.seed}
    since = 0
    for index, (until, state) in enumerate(ends):
        curve = line.curve[:until]
        whole = len(curve) == epochs
        yield Part(
            study=study,
            number=first + index,
            trial=number,
            since=since,
            until=until,
            starts=0,
            follows=None,
            cost=cost,
            epochs=len(curve),
            state=state,
            parameters=chosen,
            curve=curve,
            result=line.result if whole else _result(line.result, curve, played.kept),
            reason=line.reason if state == State.FAILED else None,
            meta={"arithmetic": line.arithmetic, "kept": kept},
        )
        since = until


def _result(
    last: dict[str, Any] | None, curve: Sequence[dict[str, Any]], kept: Sequence[int]
) -> dict[str, Any]:
    """What a trial had come to after a part of its epochs."""
    epoch = kept[len(curve) - 1]
    found = {name: curve[epoch - 1][name] for name in KEPT}
    weights = {"weights": last["weights"]} if last else {}
    return {**found, "epochs": len(curve), "best_epoch": epoch, **weights}
