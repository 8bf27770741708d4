"""Proposals: the parameters of a new trial as a pure function of what it sees.

They depend on the space, the study's seed, the trial's number, and the trials that it sees (see
`plan`, in this room). An in-memory Optuna study is made of those, finished, paused or running, and
asked by a sampler whose seed is drawn from (seed, number). A sampler that lived longer would depend
on which proposals its own process happened to make, and one that is built anew with the study's
seed would repeat its draws.

What a sampler reads of a long study is bounded (see `Proposer`), so that trial 5 000 costs no more
than trial 500.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from heapq import nsmallest
from typing import TYPE_CHECKING

from pipeline.errors import UserError
from pipeline.own_code import Sources, where
from pipeline.results.states import State
from pipeline.seeds import derive_seed
from pipeline.settings.hyperparameters import Domain, Value, grid
from pipeline.settings.own_files import SOURCES, is_own
from pipeline.settings.search_section import Search
from pipeline.settings.space import Space
from pipeline.study.search.informing import informed
from pipeline.study.search.own_sampler import own_sampler
from pipeline.study.search.plan import Known, Planner
from pipeline.study.search.sampler import (
    ask,
    centre,
    completed,
    frozen,
    new_sampler,
    new_study,
    proposal_seed,
    tpe_order,
)
from pipeline.study.storage.rows import Part

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

BLOCK = 200  # trials
ELDERS = 50  # TPE models its good trials by 25 at most
LEARNED, ATTEMPTS = 20, 1000  # proposals of the sampler, and then draws, until one is within limits


class Proposer:
    """Proposes the parameters of trials.

    The numbers are divided into blocks of `BLOCK` trials. A proposal sees the trials of its own
    block and of the one before, and of the older ones the best `ELDERS`; so it sees all of the
    first 2 · BLOCK trials. A sweep with two objectives, where no few trials are the best, sees all
    trials always.
    """

    def __init__(
        self,
        searched: dict[str, Domain],
        search: Search,
        within: Callable[[dict[str, Value]], bool] = lambda chosen: True,
        sources: Sources | None = None,
        informing: Sequence[dict[str, Value]] = (),
    ):
        """`within` says whether a setting keeps `search.constraints`; `sources` are the Python
        files that the section `search` names; `informing` are settings that are tried early because
        of what was observed elsewhere."""
        self._searched = searched
        self._search = search
        self._within = within
        self._sources = sources or {}
        self._informing = informing
        self._cells: list[dict[str, Value]] | None = None
        self._replay: Replay | None = None
        self._made: dict[int, tuple[Known, FrozenTrial]] = {}  # what was seen last

    def propose(self, planner: Planner) -> dict[str, Value]:
        """The searched parameters of the next trial; conditional ones where they exist.

        Raises UserError if no setting is found within the constraints.
        """
        trials = planner.trials
        number = len(trials)
        if not self._searched:
            return {}
        given = given_settings(self._searched, self._search, planner.kept)
        after = number - len(planner.kept) - len(given)
        if after < 0 and self._within(given[after]):
            return given[after]
        if self._search.sampler == "grid":
            return self._grid_cell(number - len(planner.kept), planner.kept)
        if self._search.sampler == "cmaes":
            if self._replay is None or self._replay.planner is not planner:  # it was re-opened
                self._replay = Replay(self._searched, self._search, planner)
            return self._replay.propose()
        if after >= 0 and (setting := informed(self._informing, planner, after)):
            return setting
        blind = after < 0 or draws_at_random(self._search, number)
        name = "random" if blind else self._search.sampler
        seen = [] if name == "random" else self._frozen(trials)
        for attempt in range(ATTEMPTS):
            by, known = (name, seen) if attempt < LEARNED else ("random", [])
            chosen = propose_by(
                by, self._search, self._searched, number, known, self._sources, attempt
            )
            if self._within(chosen):
                return chosen
        raise UserError(
            f"search.constraints: none of {ATTEMPTS} settings for trial {number} keeps them: loosen"
            " them, or narrow the ranges"
        )

    def draw(self, number: int) -> dict[str, Value]:
        """A draw at random, whatever the sampler."""
        sampler = new_sampler("random", self._search, number)
        return ask(new_study(self._search), sampler, self._searched)

    def _grid_cell(self, index: int, kept: Sequence[dict[str, Value]]) -> dict[str, Value]:
        """Of the trials that were not `kept` number `index`; some before it were enqueued."""
        wanted = enqueued(self._searched, self._search, kept)
        tried = [setting for setting in wanted if self._within(setting)]
        if self._cells is None:
            cells = (cell for cell in grid(self._searched) if self._within(cell))
            self._cells = [cell for cell in cells if cell not in kept and cell not in tried]
            random.Random(derive_seed(self._search.seed, "grid")).shuffle(self._cells)
        place = index - sum(self._within(setting) for setting in wanted[:index])
        if place >= len(self._cells):
            raise UserError(
                f"search.trials: the grid has {len(self._cells) + len(tried)} cells within"
                f" search.constraints{' that were not kept' if kept else ''}: set at most"
                f" {len(self._cells) + len(tried) + len(kept)} trials"
            )
        return self._cells[place]

    def _frozen(self, trials: Sequence[Known]) -> list[FrozenTrial]:
        """What is seen, as Optuna knows it; made anew is what has changed since."""
        before, self._made = self._made, {}
        for number in self._seen(trials):
            kept = before.get(number)
            if kept is None or kept[0] is not trials[number]:
                kept = trials[number], frozen(self._searched, self._search, trials[number])
            self._made[number] = kept
        return [made for _, made in self._made.values()]

    def _seen(self, trials: Sequence[Known]) -> list[int]:
        """The trials that a sampler reads, in order."""
        block = max(BLOCK, self._search.startup_trials)
        first = max(0, len(trials) // block - 1) * block
        if first == 0 or len(self._search.objectives) > 1:
            return list(range(len(trials)))
        older = [
            (tpe_order(trial.state, trial.epochs, trial.result), number)
            for number, trial in enumerate(trials[:first])
            if trial.result
        ]
        best = sorted(number for _, number in nsmallest(ELDERS, older))
        return [*best, *range(first, len(trials))]


def proposer_of(
    space: Space,
    within: Callable[[dict[str, Value]], bool],
    informing: Sequence[dict[str, Value]],
) -> Proposer:
    """The one that proposes the trials of a sweep."""
    sources = space.section("search").get(SOURCES, {})
    return Proposer(space.searched, space.search, within, sources, informing)


def propose_by(
    name: str,
    search: Search,
    searched: dict[str, Domain],
    number: int,
    seen: Sequence[FrozenTrial],
    sources: Sources,
    attempt: int = 0,
) -> dict[str, Value]:
    """What a sampler proposes for trial `number` of what it sees. Raises UserError if it is one of
    your own that fails."""
    study = new_study(search)
    study.add_trials(seen)
    if not is_own(name):
        return ask(study, new_sampler(name, search, number, attempt), searched)
    sampler = own_sampler(name, sources, proposal_seed(search, number, attempt))
    try:
        chosen = ask(study, sampler, searched)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{name}: fails: {where(error, name)}") from error
    for key, value in chosen.items():
        if not searched[key].holds(value):
            raise UserError(f"{name}: proposes {key} {value!r}, which is not in its range")
    return chosen


class Replay:
    """Plays CMA-ES forward, whose state lives in its asks: every ask and every end, in order."""

    def __init__(self, searched: dict[str, Domain], search: Search, planner: Planner):
        self._searched, self._search, self.planner = searched, search, planner
        self._study = new_study(search)
        self._asked: list[dict[str, Value]] = []

    def propose(self) -> dict[str, Value]:
        """The parameters of the next trial; each part is a trial."""
        planner = self.planner
        step = planner.next()
        assert step is not None
        follows = [part.follows for part in planner.parts] + [step.place.follows]
        for number in range(len(self._asked), len(follows)):
            if (ended := follows[number]) is not None:
                self._tell(ended, planner.parts[ended])
            self._asked.append(self._ask(number))
        return self._asked[-1]

    def _ask(self, number: int) -> dict[str, Value]:
        given = given_settings(self._searched, self._search)
        if number < len(given):
            chosen = given[number]
            trial = frozen(self._searched, self._search, Known(chosen, State.RUNNING))
            self._study.add_trial(trial)
            return chosen
        return ask(self._study, new_sampler("cmaes", self._search, number), self._searched)

    def _tell(self, number: int, part: Part) -> None:
        import optuna

        state = optuna.trial.TrialState
        if part.state == State.COMPLETE and part.result is not None:
            self._study.tell(number, part.result[self._search.objectives[0]])
        elif part.state == State.PRUNED and part.result is not None:
            mine = self._study.get_trials(deepcopy=False)[number]
            value = part.result["nelbo_nats"]
            optuna.trial.Trial(self._study, mine._trial_id).report(value, part.epochs)
            self._study.tell(number, state=state.PRUNED)
        else:
            self._study.tell(number, state=state.FAIL)


def draws_at_random(search: Search, number: int) -> bool:
    """Whether a trial is drawn at random, whatever was seen."""
    if is_own(search.sampler) and number < search.startup_trials:
        return True
    if search.sampler == "random" or not search.random_share:
        return search.sampler == "random"
    draw = random.Random(derive_seed(search.seed, "explore", number))
    return draw.random() < search.random_share


def given_settings(
    searched: dict[str, Domain], search: Search, kept: Sequence[dict[str, Value]] = ()
) -> list[dict[str, Value]]:
    """What is tried first, whatever the sampler: `search.enqueue`, and before a sampler learns the
    centre.

    After trials that were `kept` nothing is tried again, and there is something to learn from.
    """
    first = enqueued(searched, search, kept)
    if not kept and search.sampler not in ("random", "grid"):
        first.append(centre(searched))
    return first


def enqueued(
    searched: dict[str, Domain], search: Search, kept: Sequence[dict[str, Value]]
) -> list[dict[str, Value]]:
    """`search.enqueue` in full, without what was kept."""
    settings = (completed(searched, given) for given in search.enqueue)
    return [setting for setting in settings if setting not in kept]
