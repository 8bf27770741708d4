"""What trials of other data, another likelihood or budget tell a search: what to try at first.

Of such *observations* only the order within their study is read, never a value, and only what both
spaces search. The best of them take every second one of the first new trials, in place of draws at
random, as long as these do no worse than the others: what misleads costs no more than it takes to
see that. All this follows from the table, the space and what is seen.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

from pipeline.results.states import State
from pipeline.settings.hyperparameters import Domain, Value
from pipeline.settings.search_section import Search
from pipeline.study.search.kept_table import Kept
from pipeline.study.search.plan import Planner
from pipeline.study.search.sampler import completed, tpe_order

Known = dict[str, Value]  # a setting, as far as the space can propose it

EVIDENCE = 4  # comparisons: fewer say nothing


def observed(
    searched: dict[str, Domain], trials: Sequence[Kept]
) -> tuple[list[Known], dict[str, int]]:
    """What a space can learn of trials, best first, and for which reason how many do not help.

    Those of one study, or of several that can be compared, are ranked by themselves; the ranks of
    all of them are merged.
    """
    origins = {trial.line.study: trial.origin for trial in trials}
    alike = {
        study: origin.model_dump_json(exclude={"study", "settled", "sources"})
        for study, origin in origins.items()
    }
    studies: dict[str, list[Kept]] = defaultdict(list)
    for trial in trials:
        studies[alike[trial.line.study]].append(trial)
    found: list[tuple[float, Known]] = []
    left_out: Counter[str] = Counter()
    for group in studies.values():
        ended = [(each.line, each.line.result) for each in group if each.line.result]
        ended.sort(key=lambda each: tpe_order(each[0].state, len(each[0].curve), each[1]))
        left_out["failures"] += len(group) - len(ended)
        for rank, (line, _) in enumerate(ended):
            if known := _known(searched, line.parameters):
                found.append(((rank + 0.5) / len(ended), known))
            else:
                left_out["nothing that is searched here"] += 1
    found.sort(key=lambda each: each[0])
    return [known for _, known in found], {why: n for why, n in sorted(left_out.items()) if n}


def _known(searched: dict[str, Domain], theirs: dict[str, Value]) -> Known:
    """The values that the space could propose; others, and what hangs on them, are passed over."""
    known: Known = {}
    for name, domain in searched.items():
        if name in theirs and domain.active(known) and domain.holds(theirs[name]):
            known[name] = theirs[name]
    return known


def first_tried(
    searched: dict[str, Domain],
    search: Search,
    observations: Sequence[Known],
    within: Callable[[dict[str, Value]], bool],
) -> list[dict[str, Value]]:
    """The settings for every second one of `search.startup_trials`: the best, each once, and what
    is not known of one at its centre. `within` says whether a setting may be tried."""
    found: list[dict[str, Value]] = []
    for known in observations:
        setting = completed(searched, known)
        if len(found) == (search.startup_trials + 1) // 2:
            break
        if setting not in found and within(setting):
            found.append(setting)
    return found


def informed(
    settings: Sequence[dict[str, Value]], planner: Planner, drawn: int
) -> dict[str, Value] | None:
    """Which of these the next trial takes; None: none of them.

    `drawn` is how many trials were begun before it that were neither kept nor given.
    """
    turn, others = divmod(drawn, 2)
    if others or turn >= len(settings):
        return None
    numbers = range(len(planner.trials) - drawn, len(planner.trials), 2)
    tried = zip(numbers, settings, strict=False)
    theirs = {n for n, setting in tried if planner.trials[n].parameters == setting}
    found = list(_comparisons(planner, theirs))
    misleads = len(found) >= EVIDENCE and sum(found) < 0
    return None if misleads else settings[turn]


def _comparisons(planner: Planner, theirs: set[int]) -> Iterator[int]:
    """Of each of theirs with each other trial: 1 where it is better after the last epoch that both
    have come to, -1 where it is worse; a failure is worse than all."""
    seen = {n: _seen(planner, n) for n, t in enumerate(planner.trials) if t.state != State.RUNNING}
    for one in theirs & seen.keys():
        for other in seen.keys() - theirs:
            epochs = min(len(seen[one]), len(seen[other]))
            a, b = (seen[n][epochs - 1] if epochs else -len(seen[n]) for n in (one, other))
            yield (a < b) - (a > b)


def _seen(planner: Planner, number: int) -> list[float]:
    """The NELBOs of a trial, as far as the next part sees them; none of a failure."""
    known = planner.trials[number]
    if known.state == State.FAILED:
        return []
    return [record["nelbo_nats"] for record in planner.latest(number).curve[: known.epochs]]
