"""The winner among retrained candidates, and what can honestly be said of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import UserError
from pipeline.study.confirmation.compare import Difference, Matrix, difference, within_noise
from pipeline.study.confirmation.race import LEVEL, Look
from pipeline.study.identity import Study
from pipeline.study.storage.rows import Trial


@dataclass(frozen=True, eq=False)
class Candidate:
    """One setting and its runs, run n on fresh seed n."""

    index: int
    entry: dict[str, Any]  # number, nelbo_nats and parameters as the search has them
    study: Study
    runs: list[Trial]
    measured: Matrix  # (seeds, images) validation NELBO in nats; no seeds if it is out
    dropped: Look | None = None  # by which look of the race; its runs end there

    @property
    def values(self) -> list[float]:
        """The validation NELBO of each seed in nats; a failed run counts as infinite, as all do
        of a candidate that was dropped."""
        if self.dropped:
            return [math.inf for _ in self.runs]
        return [run.result["nelbo_nats"] if run.result else math.inf for run in self.runs]

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)

    @property
    def weights(self) -> int:
        """The size of the model; 0 where no run ended well."""
        size: int = (self.runs[0].result or {}).get("weights", 0)
        return size

    def behind(self, leader: Candidate) -> Difference:
        """How much worse it is than the leader, image by image."""
        return difference(self.measured, leader.measured)


@dataclass(frozen=True)
class Verdict:
    """The winner is the smallest of `equals`: the lowest mean and what cannot be told from it."""

    winner: Candidate
    leader: Candidate
    equals: list[Candidate]
    sentence: str
    looks: list[Look]  # of the race; [] if there was none


def choose(candidates: list[Candidate], looks: Sequence[Look] = ()) -> Verdict:
    """The lowest mean validation NELBO leads; of its equals the smallest model wins.

    `looks` are those of the race, which has dropped some. Raises UserError if every candidate
    failed on some seed.
    """
    finite = [candidate for candidate in candidates if math.isfinite(candidate.mean)]
    if not finite:
        failed = [run.reason for c in candidates for run in c.runs if run.reason]
        reasons = "; ".join(sorted({reason.splitlines()[0] for reason in failed}))
        raise UserError(
            f"retrain: every candidate failed on some seed: {reasons}: choose a tamer search space"
        )
    leader = _lowest(finite)
    equals = [c for c in finite if c is leader or within_noise(c.measured, leader.measured)]
    winner = min(equals, key=lambda c: (c.weights, c.mean, c.index))
    dropped = [c for c in candidates if c.dropped]
    if len(finite) > 1 or len(candidates) == 1:
        said = [_sentence(winner, leader, equals, finite)]
    elif dropped:
        said = [f"Candidate {winner.index} is the only one that was trained to the end."]
    else:
        said = [f"Candidate {winner.index} is the only one that did not fail."]
    said += [_out(candidate, candidate.dropped) for candidate in dropped if candidate.dropped]
    if dropped:
        said.append(_errors(sum(look.at_rung for look in looks)))
    return Verdict(winner, leader, equals, " ".join(said), list(looks))


def _lowest(candidates: list[Candidate]) -> Candidate:
    return min(candidates, key=lambda candidate: (candidate.mean, candidate.index))


def _sentence(
    winner: Candidate, leader: Candidate, equals: list[Candidate], finite: list[Candidate]
) -> str:
    who, seeds = f"Candidate {winner.index}", len(winner.values)
    counts = sorted({len(c.values) for c in finite})
    noise = f"{' or '.join(map(str, counts))} seeds"
    others = [c for c in finite if c is not leader]
    if not others:
        return f"{who} is the only one."
    if seeds == 1:
        return (
            f"{who} has the lowest NELBO, on a single seed: whether it is better than the others is"
            " not known."
        )
    if winner.measured.shape[1] == 1:
        return (
            f"{who} has the lowest mean, on a single validation image: whether it is better than"
            " the others on other images is not known."
        )
    if len(equals) > 1:
        names = ", ".join(str(c.index) for c in equals)
        other = winner if winner is not leader else _lowest([c for c in equals if c is not leader])
        what = "smallest model" if winner is not leader else "lowest mean and no larger a model"
        return (
            f"Candidates {names} cannot be told apart on {noise}: {_behind(other, leader)}."
            f" {who} wins as the {what}."
        )
    unsure = [c for c in others if not c.behind(leader).low > 0]
    if unsure:  # the interval of an unstable one is wide enough for anything
        other = _lowest(unsure)
        return (
            f"{who} wins as the lowest mean, but cannot be told apart from candidate {other.index},"
            f" whose seeds scatter more: {_behind(other, leader)}."
        )
    claim = f"is better than every other beyond the noise of {noise}"
    return f"{who} {claim}: {_behind(_lowest(others), leader)}."


def _behind(candidate: Candidate, leader: Candidate) -> str:
    gap = candidate.behind(leader)
    return (
        f"candidate {candidate.index} is worse than candidate {leader.index} by {gap.mean:.2f} nats"
        f" (95 % interval {gap.low:.2f} … {gap.high:.2f})"
    )


def _out(candidate: Candidate, look: Look) -> str:
    """Why the race has dropped it."""
    stand = next(each for each in look.standings if each.candidate == candidate.index)
    leader = next(each for each in look.standings if each.least is None)
    assert stand.least is not None
    assert stand.least_at_end is not None
    return (
        f"Candidate {stand.candidate} was dropped after {look.epoch} epochs on {stand.seeds} seeds:"
        f" worse than candidate {leader.candidate} by {stand.behind:.2f} nats, at least"
        f" {stand.least:.2f}, and by at least {stand.least_at_end:.2f} at the last epoch if both"
        " go on as they did."
    )


def _errors(rungs: int) -> str:
    """What looks that drop candidates may cost; those at the last epoch only ask for seeds."""
    together = f", {rungs} rungs in at most {rungs * LEVEL:.1%}" if rungs > 1 else ""
    return (
        "Of two candidates whose seeds scatter alike a rung takes the better one for the worse in"
        f" at most {LEVEL:.1%} of cases{together}."
    ).replace("%", " %")
