"""Stage search: the study of a sweep, and its tables.

Reads prepare/; writes search/trials.csv (a row a trial), search/curves.csv (a row a trial and
epoch), search/best.json, and search/study.json, from which these follow. The live study is in the
ledger, outside the output, so that more trials extend it and an interrupted search goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

from pipeline.errors import UserError
from pipeline.files import read_json, write_json
from pipeline.paths import Paths
from pipeline.results.record import open_inputs, recorded
from pipeline.results.states import Kind, State
from pipeline.settings.machine import Machine
from pipeline.settings.space import Space
from pipeline.study.identity import Study, changes, search_study
from pipeline.study.ranking import best_record, ranked, unranked
from pipeline.study.receipt import left_out, write_studies
from pipeline.study.search.beginning import Beginning, beginning
from pipeline.study.search.plan import belonging
from pipeline.study.storage.ledger import Ledger, storage_url
from pipeline.study.storage.rows import Part, Trial, trials_of
from pipeline.study.tables import curves_table, trials_table
from pipeline.study.watch import Watch, most_trials
from pipeline.work.broken_models import undertrained
from pipeline.work.crew import Crew
from pipeline.work.own import check_own

REASONS = 3  # of failures in a message


def run(
    space: Space, machine: Machine, paths: Paths, late: Callable[[], bool] | None = None
) -> None:
    """Finishes the study's trials and writes the tables. Raises UserError if all trials failed.

    Raises OutOfTime, and writes nothing, once it is `late`: the stages after it need the time.
    """
    inputs = open_inputs("search", space, paths)
    manifest = read_json(paths.manifest)
    check_own(space, tuple(manifest["shape"]))
    study = search_study(space, manifest["sha256"])
    with closing(Ledger(storage_url(machine, paths))) as ledger:
        kept = beginning(space, paths, study.id, manifest)
        known = ledger.studies(space.name, Kind.SEARCH)
        news = partial(_news, space, study, ledger, kept, known)
        ledger.open_study(study.id, space.name, study.kind, study.spec, left_out(space), kept.parts)
        crew = Crew("search", space, machine, paths, ledger, [study], late=late, news=news,
                    informing=kept.informing)  # fmt: skip
        crew.work()
        parts = belonging(space, ledger.parts(study.id))
    trials = trials_of(parts)
    best = _best(space, study, parts)
    with recorded("search", space, paths, inputs) as folder:
        trials_table(trials, list(space.searched)).to_csv(
            folder / paths.trials_table.name, index=False
        )
        curves_table(trials).to_csv(folder / paths.curves_table.name, index=False)
        write_json(folder / paths.best.name, best)
        write_studies(folder / paths.search_record.name, [(study, parts)])
    winner = next((trial.result for trial in trials if trial.number == best["number"]), None)
    if why := undertrained(f"search {space.name}: the best trial", winner, "search.epochs"):
        print(why, file=sys.stderr)


def _news(
    space: Space, study: Study, ledger: Ledger, kept: Beginning, known: dict[str, Any]
) -> list[str]:
    """Lines: whether the study is new, goes on, or has forked from an earlier one and why; by the
    studies that were `known` before."""
    title = f"search {space.name}"
    if not space.searched:
        return [f"{title}: nothing is searched: no trials"]
    if study.id in known:
        watch = Watch(ledger, study, space)
        watch.refresh()
        done, budget = watch.ended, most_trials([study])
        return [f"{title}: study {study.id} has {done} of {budget} trials"]
    news = [f"{title}: {kept.text()}"] if space.search.observations else []
    if not known:
        return [*news, f"{title}: new study {study.id}"]
    previous = list(known)[-1]
    why = "; ".join(changes(known[previous], study.spec))
    fork = f"study {study.id} forks from {previous}, whose trials are not comparable: {why}"
    return [*news, f"{title}: {fork}"]


def _best(space: Space, study: Study, parts: list[Part]) -> dict[str, Any]:
    """The ranking of the trials, best first, and what the search took."""
    trials = trials_of(parts)
    ranking = ranked(trials)
    if not ranking:
        ranking = unranked(_fallback(space, trials) if space.searched else {})
    return best_record(space, study.id, parts, ranking)


def _fallback(space: Space, trials: list[Trial]) -> dict[str, Any]:
    reasons = sorted({(trial.reason or State.PRUNED).splitlines()[0] for trial in trials})
    rest = [f"and {len(reasons) - REASONS} other reasons"] if len(reasons) > REASONS else []
    why = (
        f"search {space.name}: none of {len(trials)} trials succeeded:"
        f" {'; '.join(reasons[:REASONS] + rest)}"
    )
    if space.search.fallback is None:
        raise UserError(
            f"{why}: change what is searched (a lower lr, if they diverged), set search.fallback,"
            f" or train them again by `python -m pipeline retry {space.name}`"
        )
    print(f"{why}: going on with search.fallback", file=sys.stderr)
    return space.search.fallback
