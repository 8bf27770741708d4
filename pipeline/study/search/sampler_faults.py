"""What is wrong with a sampler of one's own, found before a search relies on it.

It is examined in two processes of its own, because a proposal must be a pure function of what it
sees: any worker makes it, and `verify` makes it again.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from pipeline.errors import UserError
from pipeline.own_code import Fault
from pipeline.results.keys import PARTS
from pipeline.results.states import State
from pipeline.seeds import derive_seed
from pipeline.settings.own_files import SOURCES, is_own
from pipeline.settings.space import Space
from pipeline.study.search.plan import Known
from pipeline.study.search.propose import Proposer, propose_by
from pipeline.study.search.sampler import frozen

MORE = (0, 1, 20)  # trials that a proposal sees beyond `startup_trials`, when it is examined
HASHES = ("1", "2")  # of the two processes: sets of text have an order in each
SECONDS = 120.0  # for a process: it imports torch and makes six proposals
IMPURE = (
    "its proposals must be a pure function of the trials that it is given and of `seed`: draw from"
    " a generator made with that seed, and keep nothing between two proposals"
)


def sampler_faults(space: Space) -> Iterator[str]:
    """The first fault of the sampler that a space names, as a line, if it has one."""
    name = space.search.sampler
    if not is_own(name) or not space.searched:
        return
    found = []
    for hashes in HASHES:  # one after the other: the clock has moved on
        found.append(_in_a_process(space, hashes))
        if "fault" in found[-1]:
            yield found[-1]["fault"]
            return
    for one, other in zip(*(each["answers"] for each in found), strict=True):
        if one != other:
            yield f"{name}: two processes propose {_shown(one, other)} of the same trials: {IMPURE}"
            return


def _in_a_process(space: Space, hashes: str) -> dict[str, Any]:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.study.search.sampler_faults", hashes],
            input=space.model_dump_json(),
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": hashes},
            check=False,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        asked = 2 * len(MORE)
        return {"fault": f"{space.search.sampler}: has not made {asked} proposals in {SECONDS:g} s:"
                         " a worker would wait for it before every trial"}  # fmt: skip
    with contextlib.suppress(ValueError):
        found: dict[str, Any] = json.loads(done.stdout)
        return found
    last = (done.stderr.strip().splitlines() or ["no word"])[-1]
    return {"fault": f"{space.search.sampler}: ends its process ({done.returncode}): {last}"}


def _answers(space: Space) -> list[dict[str, Any]]:
    """What the sampler proposes after searches of several lengths; each is asked twice.

    Raises UserError or what is wrong.
    """
    name, sources = space.search.sampler, space.section("search")[SOURCES]
    known = [Known(*each) for each in _trials(space)]
    seen = [frozen(space.searched, space.search, trial) for trial in known]
    twice: list[list[dict[str, Any]]] = [[], []]
    for answered in twice:
        for number in (space.search.startup_trials + more for more in MORE):
            before = [_content(trial) for trial in seen]
            given = seen[:number]
            chosen = propose_by(name, space.search, space.searched, number, given, sources)
            if [_content(trial) for trial in seen] != before:
                raise Fault("changes the trials that it is given: copy what you change")
            answered.append(chosen)
    for one, other in zip(*twice, strict=True):
        if one != other:
            raise Fault(f"asked twice, it proposes {_shown(one, other)} of the same trials:"
                         f" {IMPURE}")  # fmt: skip
    return twice[0]


def _trials(space: Space) -> Iterator[tuple[Any, ...]]:
    """Trials as a search has them, some without a result; the last one is at work."""
    search = space.search
    ends = [State.COMPLETE, State.COMPLETE, State.COMPLETE, State.FAILED]
    if search.pruner != "none":
        ends.append(State.PAUSED if search.pruner == "rungs" else State.PRUNED)
    proposer = Proposer(space.searched, search)
    for number in range(search.startup_trials + max(MORE)):
        state = ends[number % len(ends)] if number % 11 != 10 else State.RUNNING
        values = [derive_seed(0, "value", part, number) % 10_000 / 100 for part in PARTS]
        result = dict(zip(PARTS, values, strict=True))
        without = state in (State.FAILED, State.RUNNING)
        yield proposer.draw(number), state, 0 if without else 1, None if without else result


def _content(trial: Any) -> str:
    return repr((trial.state, trial.values, trial.params, trial.distributions,
                 trial.intermediate_values, trial.user_attrs, trial.system_attrs))  # fmt: skip


def _shown(one: dict[str, Any], other: dict[str, Any]) -> str:
    """The first hyperparameter in which two settings differ."""
    name = next(each for each in {**one, **other} if one.get(each) != other.get(each))
    return f"{name} {one.get(name)} and then {other.get(name)}"


def examine(space: Space, first: bool = True) -> dict[str, Any]:
    """What the process that examines says: `answers` or a `fault`."""
    from pipeline.vae.left_alone import process_is_left_alone

    name = space.search.sampler
    try:
        with process_is_left_alone() if first else contextlib.nullcontext():
            return {"answers": _answers(space)}
    except UserError as error:
        return {"fault": str(error)}
    except Fault as fault:
        return {"fault": f"{name}: {fault}"}


def main() -> None:
    """Examines the space on standard input; one line of JSON."""
    space = Space.model_validate_json(sys.stdin.read())
    with contextlib.redirect_stdout(sys.stderr):  # which is the sampler's
        found = examine(space, sys.argv[1] == HASHES[0])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
