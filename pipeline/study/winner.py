"""The winner among retrained candidates, and what can honestly be said of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pipeline.errors import UserError
from pipeline.study.compare import Difference, Matrix, difference, within_noise
from pipeline.study.identity import Study
from pipeline.study.ledger import Trial


@dataclass(frozen=True, eq=False)
class Candidate:
    """One setting and its runs, run n on fresh seed n."""

    index: int
    entry: dict[str, Any]  # number, nelbo_nats and parameters as the search has them
    study: Study
    runs: list[Trial]
    measured: Matrix  # (seeds, images) validation NELBO in nats; no seeds if a run failed

    @property
    def values(self) -> list[float]:
        """The validation NELBO of each seed in nats; a failed run counts as infinite."""
        return [run.result["nelbo_nats"] if run.result else math.inf for run in self.runs]

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)

    @property
    def weights(self) -> int:
        """The size of the model."""
        return self.runs[0].result["weights"] if self.runs[0].result else 0

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


def choose(candidates: list[Candidate]) -> Verdict:
    """The lowest mean validation NELBO leads; of its equals the smallest model wins.

    Raises UserError if every candidate failed on some seed.
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
    if len(finite) == 1 < len(candidates):
        sentence = f"Candidate {winner.index} is the only one that did not fail."
    else:
        sentence = _sentence(winner, leader, equals, finite)
    return Verdict(winner, leader, equals, sentence)


def _lowest(candidates: list[Candidate]) -> Candidate:
    return min(candidates, key=lambda candidate: (candidate.mean, candidate.index))


def _sentence(
    winner: Candidate, leader: Candidate, equals: list[Candidate], finite: list[Candidate]
) -> str:
    who, seeds = f"Candidate {winner.index}", len(winner.values)
    others = [c for c in finite if c is not leader]
    if not others:
        return f"{who} is the only one."
    if seeds == 1:
        return (
            f"{who} has the lowest NELBO, on a single seed: whether it is better than the others is"
            " not known."
        )
    if len(equals) > 1:
        names = ", ".join(str(c.index) for c in equals)
        other = winner if winner is not leader else _lowest([c for c in equals if c is not leader])
        what = "smallest model" if winner is not leader else "lowest mean and no larger a model"
        return (
            f"Candidates {names} cannot be told apart on {seeds} seeds: {_behind(other, leader)}."
            f" {who} wins as the {what}."
        )
    if all(c.behind(leader).low > 0 for c in others):
        claim = f"is better than every other beyond the noise of {seeds} seeds"
    else:  # the interval of an unstable one is wide enough for anything
        claim = f"has the lowest mean, beyond the noise of its own {seeds} seeds"
    return f"{who} {claim}: {_behind(_lowest(others), leader)}."


def _behind(candidate: Candidate, leader: Candidate) -> str:
    gap = candidate.behind(leader)
    return (
        f"candidate {candidate.index} is worse than candidate {leader.index} by {gap.mean:.2f} nats"
        f" (95 % interval {gap.low:.2f} … {gap.high:.2f})"
    )
